"""The console: the intake's pages for people, under `/console`. Made on the server; scripts only add comfort.

How a page is added:

1. `routes/NOUN.py` has a `router = APIRouter()`. Its routes take `visit: Visiting`, who is signed in; those that change
   something take `form: Posted`, too. A route translates: it calls the store, and answers with
   `visit.page("NOUN/list.html", …)` or, after a change, with `visit.redirect("/NOUN", "What was done")`.
2. `MODULES` in `app.py` serves the module, one line in `navigation.py` puts it into the navigation.
3. Templates extend `base.html`: blocks `title`, `crumbs`, `heading`, `actions`, `content`. The fields of a form are in
   `macros/forms.html`, breadcrumbs, paging and empty lists in `macros/page.html`. `confirm.html` is for what is first
   said and then done.
4. The token against forged forms is checked for every route: a form has `{{ csrf(visit) }}`, a script sends the content
   of `<meta name="csrf">` as `X-CSRF-Token`.
5. Errors of `publisher.core.errors` become pages by themselves, but for `InvalidRequest` where the form is to be shown
   again: `visit.page("NOUN/form.html", status=400, errors={field: words}, …)`.
6. Whose objects: `visit.owner` is the login whose objects alone are shown, None for administrators, who see all.
   `visit.require("image_publish")` asks for an entitlement. What is changed through `visit.store` is in the audit log.
7. `visit.live(look)` keeps a page up to date (`live.py`).
8. `tests/browser/pages.py` has the list of pages that are checked for accessibility: add it there.
"""

BASE = "/console"
"""The path that all pages are below."""
