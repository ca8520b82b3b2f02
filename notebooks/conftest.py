"""What nbval leaves out when it compares a notebook's stored outputs with fresh ones, besides pictures."""

# Live widgets carry random identities, the others differ between machines. Words (text/plain, text/markdown and what is
# printed) are compared to the letter: every picture in the course comes with words that would change with it.
NOT_COMPARED = ("text/html", "image/svg+xml", "stderr", "application/vnd.jupyter.widget-view+json")

# Those are kept unrun, with solutions in them: tests/test_assignments.py runs them, solved and blank.
collect_ignore_glob = ["exercises/*"]


def pytest_collectstart(collector):
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += NOT_COMPARED
