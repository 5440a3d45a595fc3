"""The console: pages for people who move guests and empty hosts, and the HTTP API. It changes nothing unless it was
started with `--actions`.

`app` puts it together. `pages` has one function per page, `buttons` the pages that change something; `api` is what
programs read, `actions` what they change; `access` says who may. `live` tells browsers what changed, `templates` has
the HTML, `drover.views` what is shown. Pages have no inline script or style, and fetch nothing from elsewhere.
"""
