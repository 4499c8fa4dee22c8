"""The console: the intake's pages for people, under `/console`. The server renders them; they work without scripts.

How to add a page:

1. `routes/NOUN.py` has a `router = page_router()`. Its routes take `visit: Visiting`, the signed-in user; those that
   change something also take `form: Posted`. A route only translates: it calls the store, and answers with
   `visit.page("NOUN/list.html", …)` or, after a change, with `visit.redirect("/NOUN", "What was done")`.
2. Add the module to `MODULES` in `pages.py`, and a line to `page_request.py` for its entry in the navigation.
3. Templates extend `base.html`: blocks `title`, `crumbs`, `heading`, `actions`, `content`. The fields of a form are
   in `macros/forms.html`, breadcrumbs, paging and empty lists in `macros/page.html`. `confirm.html` is for actions
   that must be confirmed first.
4. Every route checks the token against forged forms: a form has `{{ csrf(visit) }}`, a script sends the content of
   `<meta name="csrf">` as `X-CSRF-Token`.
5. Errors of `publisher.core.errors` become pages automatically. Catch `InvalidRequest` only to show the form again:
   `visit.page("NOUN/form.html", status=400, errors={field: words}, …)`.
6. Show only objects of `visit.owner`; it is None for administrators, who see all. `visit.require("image_publish")`
   requires an entitlement. Changes made through `visit.store` are in the audit log.
7. `visit.live(look)` keeps a page up to date (`live_updates.py`).
8. Add the page to the list in `tests/browser/pages.py`, so that it is checked for accessibility.
"""
