"""What was asked for?

    command line   key=value  --+
    environment    EPOCHS ...   |--> run_config.py: RunConfig, frozen and typed, and where every value came from
    recipe         laptop.yaml  |         |
    default        -------------+         settled(world size): every size a number
    yaml_files.py  what people write, read so that nothing but a sentence comes of a mistake

- Precedence: command line, environment, recipe, default. An unknown key is refused with the nearest known one.
- A field says what it means in its description; an option that is accepted has its effect. TRL's own options pass
  through `trl`, and those decided here are refused there.
- What decides the trained weights is the run's identity (`deciding_fields`): all but where output goes and how ranks
  meet. A run with another value is another run, so a new field joins unless it is in `output` or `distributed`.
- YAML reads the bare words on and off as true and false, and PyYAML lets errors of its own out (of dates that no
  calendar has, of tags): `read_yaml` makes one kind of them.
- `batch_size: auto` stays a word until it has been measured; `micro_batch_rows` is a number or a bug.
- Settings are written down and shown, so none may hold a secret.
- No torch here: deploy reads configurations too, and a bad command line fails in milliseconds.
"""
