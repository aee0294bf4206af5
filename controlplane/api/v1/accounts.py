"""Accounts of an instance, straight from its server."""

from __future__ import annotations

from typing import Any

from django.http import Http404
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.idempotency import idempotent
from controlplane.api.v1 import serializers as forms
from controlplane.api.v1 import shapes, shown
from controlplane.api.v1.base import View, created
from controlplane.api.v1.schema import told
from controlplane.provisioning import accounts
from controlplane.values.secret import Secret

TAG = "accounts"


def secret_of(given: dict[str, Any]) -> Secret | None:
    return Secret(given["password"]) if "password" in given else None


def text_of(secret: Secret | None) -> str | None:
    return None if secret is None else secret.reveal()


class Accounts(View):
    scopes = {"GET": ("read", "accounts"), "POST": "accounts"}

    @told("GET", shapes.Account(many=True), tag=TAG, name="list_accounts", summary="List accounts", live=True)
    def get(self, request: Request, key: str) -> Response:
        return self.paged(accounts.list_accounts(instance=self.instance(key)), dict)

    @told(
        "POST",
        shapes.AccountMade,
        status=201,
        body=forms.AccountIn,
        tag=TAG,
        name="create_account",
        summary="Create an account",
        live=True,
    )
    @idempotent
    def post(self, request: Request, key: str) -> Response:
        instance = self.instance(key)
        given = self.given(forms.AccountIn)
        row, made = accounts.create_account(
            instance=instance, username=given["username"], password=secret_of(given), principal=self.principal
        )
        where = shown.url("account", key=instance.key, username=row["username"])
        return created(request, {**row, "password": text_of(made)}, where)


class OneAccount(View):
    scopes = {"GET": ("read", "accounts"), "PATCH": "accounts", "DELETE": "accounts"}

    @told("GET", shapes.Account, tag=TAG, name="get_account", summary="Read an account", live=True)
    def get(self, request: Request, key: str, username: str) -> Response:
        row = accounts.get_account(instance=self.instance(key), username=username)
        if row is None:
            raise Http404
        return Response(row)

    @told(
        "PATCH",
        shapes.Account,
        body=forms.AccountChange,
        tag=TAG,
        name="change_account",
        summary="Enable or disable an account",
        live=True,
    )
    def patch(self, request: Request, key: str, username: str) -> Response:
        instance = self.instance(key)
        given = self.given(forms.AccountChange)
        row = accounts.set_enabled(
            instance=instance, username=username, enabled=given["enabled"], principal=self.principal
        )
        return Response(row)

    @told(
        "DELETE", None, status=204, tag=TAG, name="delete_account", summary="Delete an account and its data", live=True
    )
    def delete(self, request: Request, key: str, username: str) -> Response:
        if not accounts.delete_account(instance=self.instance(key), username=username, principal=self.principal):
            raise Http404
        return Response(status=204)


class Password(View):
    scopes = {"POST": ("accounts", "passwords")}

    @told(
        "POST",
        shapes.PasswordMade,
        body=forms.PasswordIn,
        tag=TAG,
        name="set_password",
        summary="Set an account's password, or have one made up",
        live=True,
    )
    @idempotent
    def post(self, request: Request, key: str, username: str) -> Response:
        instance = self.instance(key)
        given = self.given(forms.PasswordIn)
        made = accounts.set_password(
            instance=instance, username=username, password=secret_of(given), principal=self.principal
        )
        return Response({"password": text_of(made)})
