"""Forms of the portal: shapes only. Rules are the services', whose errors are put to the field that they name."""

from __future__ import annotations

from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from controlplane.portal import presets, wording
from controlplane.values.errors import InvalidInput, RoostError

MAX_CSV_BYTES = 1_048_576


def said(error: RoostError) -> str:
    """What happened and what to do, for a person."""
    return str(error)


class Form(forms.Form):
    """A form whose fields take the errors of services."""

    def blame(self, error: RoostError, names: dict[str, str] | None = None) -> None:
        """Put a service's error to the field it names (``names``: its field -> ours), or to the whole form."""
        field = getattr(error, "field", None)
        field = (names or {}).get(field or "", field)
        self.add_error(field if isinstance(error, InvalidInput) and field in self.fields else None, said(error))


class NewMember(Form):
    username = forms.CharField(
        label=_("Name"),
        max_length=255,
        help_text=_("What stands before the @. Small letters, digits, dots and hyphens are safe everywhere."),
        widget=forms.TextInput(attrs={"autocomplete": "off", "autocapitalize": "none", "spellcheck": "false"}),
    )
    password = forms.CharField(
        label=_("Password"),
        required=False,
        max_length=512,
        strip=False,
        help_text=_("Left empty, a strong one is made up and shown once. At least 8 characters otherwise."),
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
    )


class NewPassword(Form):
    password = forms.CharField(
        label=_("New password"),
        required=False,
        max_length=512,
        strip=False,
        help_text=_("Left empty, a strong one is made up and shown once."),
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
    )


class HelpersPassword(NewPassword):
    """For who sees no list: the name is typed."""

    field_order = ["username", "password"]
    username = forms.CharField(
        label=_("Whose password?"),
        max_length=255,
        help_text=_("What stands before the @."),
        widget=forms.TextInput(attrs={"autocomplete": "off", "autocapitalize": "none", "spellcheck": "false"}),
    )


class Sure(Form):
    """To type the name of what will be gone."""

    name = forms.CharField(
        label=_("Type its name to go on"), max_length=255, widget=forms.TextInput(attrs={"autocomplete": "off"})
    )

    def __init__(self, *args: Any, wanted: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.wanted = wanted

    def clean_name(self) -> str:
        name = str(self.cleaned_data["name"]).strip()
        if name != self.wanted:
            raise forms.ValidationError(_("This is not the name: it is %(wanted)s."), params={"wanted": self.wanted})
        return name


class Csv(Form):
    """A file or pasted text."""

    file = forms.FileField(
        label=_("CSV file"), required=False, widget=forms.FileInput(attrs={"accept": ".csv,text/csv,text/plain"})
    )
    text = forms.CharField(
        label=_("Or paste it here"),
        required=False,
        max_length=MAX_CSV_BYTES,
        widget=forms.Textarea(attrs={"rows": 8, "class": "code", "spellcheck": "false"}),
    )

    def clean(self) -> dict[str, Any]:
        found = super().clean() or {}
        upload = found.get("file")
        text = found.get("text") or ""
        if upload is not None:
            if upload.size > MAX_CSV_BYTES:
                raise forms.ValidationError(_("The file is too large: at most 1 MiB."))
            try:
                text = upload.read().decode("utf-8-sig")
            except UnicodeDecodeError as error:
                raise forms.ValidationError(_("The file is not UTF-8 text. Save it as «CSV UTF-8».")) from error
        if not text.strip():
            raise forms.ValidationError(_("Choose a file, or paste its text."))
        return {**found, "text": text}


class RoomSettings(Form):
    """The settings of a room that people decide on; bans are among its people."""

    title = forms.CharField(
        label=_("Title"),
        required=False,
        max_length=200,
        help_text=_("What people see; it may have spaces and capitals."),
    )
    description = forms.CharField(
        label=_("Description"), required=False, max_length=500, help_text=_("What it is for, in a sentence.")
    )
    access = forms.ChoiceField(
        label=_("Who may come in"),
        choices=[("open", _("Everybody who knows it")), ("members", _("Only those on its list"))],
    )
    moderated = forms.BooleanField(
        label=_("Newcomers only listen"),
        required=False,
        help_text=_("Only those who are given a voice write: members of its list, administrators and owners."),
    )
    anonymity = forms.ChoiceField(
        label=_("Who sees whose address"),
        choices=[("semi", _("Only moderators see addresses")), ("none", _("Everybody sees addresses"))],
    )
    listed = forms.BooleanField(
        label=_("Listed"), required=False, help_text=_("Shown to everybody who looks for rooms on this server.")
    )
    persistent = forms.BooleanField(
        label=_("Kept when empty"), required=False, help_text=_("Otherwise it is gone when the last person leaves.")
    )
    archived = forms.BooleanField(
        label=_("Messages are kept"),
        required=False,
        help_text=_("So that people find on all of their devices what was written."),
    )
    language = forms.CharField(
        label=_("Language"),
        required=False,
        max_length=35,
        help_text=_("Such as en, de or pt-BR; clients show it in lists."),
    )


class NewRoom(RoomSettings):
    field_order = ["preset", "name", "owner", "title", "description"]
    preset = forms.ChoiceField(
        label=_("Kind"), choices=[(name, preset.name) for name, preset in presets.PRESETS.items()]
    )
    name = forms.CharField(
        label=_("Address"),
        max_length=255,
        help_text=_("What stands before the @ of its address; it never changes."),
        widget=forms.TextInput(attrs={"autocomplete": "off", "autocapitalize": "none", "spellcheck": "false"}),
    )
    owner = forms.CharField(
        label=_("Owner"),
        max_length=500,
        help_text=_("Who may decide everything in it: a member's name, or a whole address."),
        widget=forms.TextInput(attrs={"autocomplete": "off", "autocapitalize": "none", "spellcheck": "false"}),
    )


class Affiliation(Form):
    jid = forms.CharField(
        label=_("Address"),
        max_length=600,
        widget=forms.TextInput(
            attrs={"placeholder": "name@example.org", "autocomplete": "off", "autocapitalize": "none"}
        ),
    )
    affiliation = forms.ChoiceField(
        label=_("As"), choices=[(n, presets.AFFILIATIONS[n].name) for n in ("member", "admin", "owner", "outcast")]
    )


class Invite(Form):
    email = forms.EmailField(
        label=_("E-mail address"), max_length=150, widget=forms.EmailInput(attrs={"autocomplete": "off"})
    )
    role = forms.ChoiceField(
        label=_("Role"),
        initial="admin",
        choices=[(n, role.name) for n, role in wording.ROLES.items()],
        widget=forms.RadioSelect,
    )


class Role(Form):
    role = forms.ChoiceField(label=_("Role"), choices=[(n, role.name) for n, role in wording.ROLES.items()])


class Join(Form):
    """Who is invited and has no account yet."""

    first_name = forms.CharField(
        label=_("Your name"), required=False, max_length=150, widget=forms.TextInput(attrs={"autocomplete": "name"})
    )
    password = forms.CharField(
        label=_("Choose a password"),
        max_length=512,
        strip=False,
        help_text=_("At least 12 characters, and not one that many people use. A few words in a row are good."),
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
    )
