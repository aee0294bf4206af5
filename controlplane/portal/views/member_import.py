"""Many members at once, from CSV: a preview of what each line would do, then the doing, with the passwords once."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from controlplane.portal import csvs, forms
from controlplane.portal.access import PortalView
from controlplane.provisioning import accounts
from controlplane.values.errors import InvalidInput, RoostError, Unavailable
from controlplane.values.names import Localpart
from controlplane.values.secret import Secret

COLUMNS = ("username", "password")
#: Each one is made by the server while the browser waits; ejabberd takes 34 ms for one.
MOST = 200


IS_MADE = gettext_lazy("is made")


@dataclass(slots=True)
class Line:
    """``level``: ok (is made), quiet (is there), bad (cannot be). ``password``: given, or made up and shown once."""

    number: int
    username: str
    password: str
    level: str = "ok"
    says: str | Promise = IS_MADE
    made: bool = False


def lines_of(text: str, present: set[str], room_left: int) -> list[Line]:
    """What each line would do. Raises ``InvalidInput`` for what is no CSV."""
    found: list[Line] = []
    seen: set[str] = set()
    for number, (username, password) in enumerate(csvs.read(text, columns=COLUMNS, most=MOST), 1):
        line = Line(number, username, password)
        found.append(line)
        try:
            line.username = Localpart.parse(username, field="username").text
            if password:
                accounts.check_password(Secret(password))
        except InvalidInput as error:
            line.level, line.says = "bad", str(error)
            continue
        if line.username in present:
            line.level, line.says = "quiet", gettext_lazy("exists and is left as it is")
        elif line.username in seen:
            line.level, line.says = "bad", gettext_lazy("is in the list twice")
        elif room_left <= 0:
            line.level, line.says = "bad", gettext_lazy("the plan has no room for one more")
        else:
            room_left -= 1
        seen.add(line.username)
    return found


class Import(PortalView):
    """Without ``sure`` nothing is changed: the lines are shown with what they would do."""

    scopes = {"GET": ("accounts",), "POST": ("accounts",)}

    def get(self, request: HttpRequest, key: str) -> HttpResponse:
        return self.page("member_import.html", {"form": forms.Csv(), "most": MOST})

    def post(self, request: HttpRequest, key: str) -> HttpResponse:
        form = forms.Csv(request.POST, request.FILES)
        if not form.is_valid():
            return self.page("member_import.html", {"form": form, "most": MOST}, status=422)
        text = form.cleaned_data["text"]
        try:
            rows = accounts.list_accounts(instance=self.instance)
            lines = lines_of(text, {row["username"] for row in rows}, self.instance.plan.max_accounts - len(rows))
        except RoostError as error:
            form.blame(error)
            return self.page("member_import.html", {"form": form, "most": MOST}, status=422)
        context: dict[str, Any] = {"lines": lines, "text": text, "ready": sum(line.level == "ok" for line in lines)}
        if request.POST.get("sure") != "yes":
            return self.page("member_preview.html", context)
        self.make(lines)
        made = [line for line in lines if line.made]
        table = csvs.write([("address", "password"), *((self.jid(line), line.password) for line in made)])
        encoded = base64.b64encode(table.encode()).decode()
        return self.page("member_imported.html", {"lines": lines, "made": made, "table": encoded})

    def jid(self, line: Line) -> str:
        return f"{line.username}@{self.instance.domain.name}"

    def make(self, lines: list[Line]) -> None:
        """Those that can be made. A server that stops answering ends it: what was made is told, the rest is not."""
        for line in lines:
            if line.level != "ok":
                continue
            try:
                _row, generated = accounts.create_account(
                    instance=self.instance,
                    username=line.username,
                    password=Secret(line.password) if line.password else None,
                    principal=self.principal,
                )
            except Unavailable as error:
                for rest in lines:
                    if rest.level == "ok" and not rest.made:
                        rest.level, rest.says = "bad", str(error)
                return
            except RoostError as error:
                line.level, line.says = "bad", str(error)
                continue
            line.made, line.says = True, _("made")
            if generated is not None:
                line.password = generated.reveal()
