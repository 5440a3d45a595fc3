"""The console: pages for people who move guests and empty hosts. Read-only, from Postgres alone.

`app` puts it together, `pages` has one function per page, `live` tells browsers what changed, `templates` has the
HTML, `drover.views` what is shown. Pages have no inline script or style, and fetch nothing from elsewhere.
"""
