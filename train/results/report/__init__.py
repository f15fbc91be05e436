"""`report.html`: one run as a page of its own, with no network and no library."""
