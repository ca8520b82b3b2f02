"""What nbval leaves out when it compares a notebook's stored outputs with fresh ones, besides pictures."""

# Live widgets carry random identities, the others differ between machines. Words (text/plain, text/markdown and what is
# printed) are compared to the letter: every picture in the course comes with words that would change with it.
NOT_COMPARED = ("text/html", "image/svg+xml", "stderr", "application/vnd.jupyter.widget-view+json")


def pytest_collectstart(collector):
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += NOT_COMPARED
