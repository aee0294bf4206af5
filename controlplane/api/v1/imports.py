"""Taking an organisation in from elsewhere: a file is handed in, previewed, confirmed, taken in.

The file goes to disk as it comes, into Roost's spool; no process holds it in memory.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

from django.core.files.uploadedfile import UploadedFile
from django.core.files.uploadhandler import FileUploadHandler
from django.http import Http404
from rest_framework import serializers as s
from rest_framework.parsers import MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.idempotency import idempotent
from controlplane.api.v1 import serializers as forms
from controlplane.api.v1.base import View, created
from controlplane.api.v1.schema import told
from controlplane.api.v1.shapes import Shape
from controlplane.api.v1.shown import url
from controlplane.backups import imports
from controlplane.backups.importrows import Import
from controlplane.values.errors import InvalidInput, Unavailable

TAG = "imports"
#: Room that stays for others in the spool's file system.
KEEP_FREE_BYTES = 256 << 20


class ImportIn(forms.Strict):
    file = s.FileField(help_text="an XEP-0227 document, or a tar archive with such documents or a bundle; gzip or not")
    host = s.CharField(required=False, default="", help_text="of which domain in it; needed if it has several")
    replace = s.BooleanField(required=False, default=False, help_text="overwrite what is there otherwise")


class ImportShown(Shape):
    key = s.CharField()
    instance = s.CharField()
    file_name = s.CharField()
    file_bytes = s.IntegerField()
    sha256 = s.CharField()
    host = s.CharField()
    replace = s.BooleanField()
    state = s.ChoiceField(choices=Import.STATES)
    progress = s.DictField(help_text="phase, done (accounts, rooms or files), messages, file_bytes")
    preview = s.DictField(help_text="what would come of it; `blocked`: why the plan does not allow it")
    report = s.DictField(help_text="what came of it: made, changed, skipped, refused, not_carried")
    requested_by = s.CharField()
    created_at = s.DateTimeField()
    previewed_at = s.DateTimeField(allow_null=True)
    confirmed_at = s.DateTimeField(allow_null=True)
    started_at = s.DateTimeField(allow_null=True)
    finished_at = s.DateTimeField(allow_null=True)
    cancel_requested_at = s.DateTimeField(allow_null=True)
    attempts = s.IntegerField()
    error = s.CharField(allow_blank=True)
    remedy = s.CharField(allow_blank=True)


class IntoSpool(FileUploadHandler):
    """The one file, into the spool as it comes. Ends the request when it is too large or there is no room."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit, self._bytes = limit, 0
        self._digest = hashlib.sha256()

    def new_file(self, *args: Any, **kwargs: Any) -> None:
        super().new_file(*args, **kwargs)
        if self._bytes:
            raise InvalidInput("file", "Only one file can be handed in at once.")
        where = imports.spool()
        self._file = tempfile.NamedTemporaryFile(prefix=imports.RECEIVING, dir=where)  # noqa: SIM115  # Django's to close
        self._free = shutil.disk_usage(where).free

    def receive_data_chunk(self, raw_data: bytes, start: int) -> None:
        self._bytes += len(raw_data)
        if self._bytes > self._limit:
            self.upload_interrupted()
            raise too_large(self._limit)
        if self._bytes + KEEP_FREE_BYTES > self._free:
            self.upload_interrupted()
            raise Unavailable("There is no room for the file at the moment.", remedy="Try again later.")
        self._digest.update(raw_data)
        self._file.write(raw_data)

    def upload_interrupted(self) -> None:
        """Closed, it is gone."""
        self._file.close()

    def file_complete(self, file_size: int) -> UploadedFile[Any]:
        self._file.flush()
        self._file.seek(0)
        made = UploadedFile(self._file, self.file_name, self.content_type, file_size, self.charset)
        made.sha256 = self._digest.hexdigest()  # type: ignore[attr-defined]
        return made


def too_large(limit: int) -> InvalidInput:
    return InvalidInput("file", f"The file has more than {limit} bytes.", remedy="Split it, or ask the operator.")


class InstanceImports(View):
    scopes: dict[str, str | tuple[str, ...]] = {"GET": ("read", "backups"), "POST": "backups"}

    def initialize_request(self, request: Any, *args: Any, **kwargs: Any) -> Request:
        """Before anything of the body is read."""
        if request.method == "POST":
            request.upload_handlers = [IntoSpool(imports.largest_bytes())]
        return super().initialize_request(request, *args, **kwargs)

    def get_parsers(self) -> list[Any]:
        return (
            [MultiPartParser()] if self.request is not None and self.request.method == "POST" else super().get_parsers()
        )

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        limit = imports.largest_bytes()
        if request.method == "POST" and int(request.META.get("CONTENT_LENGTH") or 0) > limit + 65536:
            raise too_large(limit)

    @told("GET", ImportShown(many=True), tag=TAG, name="list_imports", summary="What was brought in from elsewhere")
    def get(self, request: Request, key: str) -> Response:
        return self.paged(Import.objects.filter(instance=self.instance(key)), imports.shown)

    @told(
        "POST",
        ImportShown,
        status=202,
        body={"multipart/form-data": ImportIn},
        tag=TAG,
        name="begin_import",
        summary="Hand in a file of another server; it is previewed first",
    )
    def post(self, request: Request, key: str) -> Response:
        instance = self.instance(key)
        given = self.given(ImportIn)
        file = given["file"]
        row = imports.begin_import(
            instance=instance,
            received=Path(file.file.name),
            name=file.name,
            sha256=file.sha256,
            host=given["host"],
            replace=given["replace"],
            principal=self.principal,
        )
        return created(request, imports.shown(row), url("import", key=row.key), status=202)


class OfImport(View):
    """Views of one import; its organisation's are the scopes."""

    def row(self, key: str) -> Import:
        found = (
            Import.objects.visible_to(self.principal).select_related("instance__organisation").filter(key=key).first()
        )
        if found is None or (found.instance is None and not self.principal.is_operator):
            raise Http404
        if found.instance is not None:
            self.demand(found.instance.organisation.slug)
        return found


class OneImport(OfImport):
    scopes: dict[str, str | tuple[str, ...]] = {"GET": ("read", "backups")}

    @told("GET", ImportShown, tag=TAG, name="get_import", summary="How an import stands")
    def get(self, request: Request, key: str) -> Response:
        return Response(imports.shown(self.row(key)))


class ConfirmImport(OfImport):
    scopes: dict[str, str | tuple[str, ...]] = {"POST": "backups"}

    @told(
        "POST",
        ImportShown,
        status=202,
        body=forms.Empty,
        tag=TAG,
        name="confirm_import",
        summary="Take in what was previewed",
    )
    @idempotent
    def post(self, request: Request, key: str) -> Response:
        row = self.row(key)
        self.given(forms.Empty)
        return Response(imports.shown(imports.confirm_import(row=row, principal=self.principal)), status=202)


class CancelImport(OfImport):
    scopes: dict[str, str | tuple[str, ...]] = {"POST": "backups"}

    @told(
        "POST", ImportShown, status=202, body=forms.Empty, tag=TAG, name="cancel_import", summary="Call an import off"
    )
    @idempotent
    def post(self, request: Request, key: str) -> Response:
        row = self.row(key)
        self.given(forms.Empty)
        return Response(imports.shown(imports.cancel_import(row=row, principal=self.principal)), status=202)
