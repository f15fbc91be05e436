"""What does `report.html` say, and how is it drawn?

    run_files.py --> facts.py    every word and number of the page, as plain values
                       |  curves
                     charts.py   thinned, smoothed, placed in a box: SVG paths and ticks
                       v
                     page.py --> report.html.jinja (+ style.css, hover.js) --> one file, no network, no library

- The template computes nothing: what it shows is tested without it.
- A long run's curve is thinned to means of neighbours, and drawn faint beside its running mean.
- Scripts and styles are within the page, whose policy forbids all else (`default-src 'none'`).
"""
