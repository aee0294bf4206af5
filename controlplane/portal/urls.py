"""Addresses of the portal, all below ``/portal/``. ``o``: an organisation, ``s``: a server."""

from __future__ import annotations

from django.urls import path

from controlplane.portal.views import (
    doors,
    federation,
    home,
    instance,
    member_import,
    members,
    people,
    reliability,
    room_people,
    rooms,
)

app_name = "portal"

_O, _S = "o/<slug:slug>", "s/<str:key>"
_M, _R = f"{_S}/members/<str:username>", f"{_S}/rooms/<str:name>"
urlpatterns = [
    path("", home.Home.as_view(), name="home"),
    path("appearance/", home.Appearance.as_view(), name="appearance"),
    path("invitation/", doors.Join.as_view(), name="join"),
    path("invitation/<str:token>/", doors.OpenInvitation.as_view(), name="invitation"),
    path("enter/", doors.ComeIn.as_view(), name="come-in"),
    path("enter/<str:token>/", doors.OpenLoginLink.as_view(), name="login-link"),
    path(f"{_O}/", home.OneOrganisation.as_view(), name="organisation"),
    path(f"{_O}/incidents/", reliability.Incidents.as_view(), name="incidents"),
    path(f"{_O}/incidents/<str:incident>/", reliability.OneIncident.as_view(), name="incident"),
    path(f"{_O}/people/", people.People.as_view(), name="people"),
    path(f"{_O}/people/invite/", people.Invite.as_view(), name="invite"),
    path(f"{_O}/people/<int:number>/", people.OnePerson.as_view(), name="person"),
    path(f"{_O}/people/<int:number>/remove/", people.RemovePerson.as_view(), name="person-remove"),
    path(f"{_O}/invitations/<int:number>/renew/", people.RenewInvitation.as_view(), name="invitation-renew"),
    path(f"{_O}/invitations/<int:number>/withdraw/", people.WithdrawInvitation.as_view(), name="invitation-withdraw"),
    path(f"{_S}/", instance.Overview.as_view(), name="instance"),
    path(f"{_S}/reverify/", instance.Reverify.as_view(), name="reverify"),
    path(f"{_S}/members/", members.Members.as_view(), name="members"),
    path(f"{_S}/password/", members.AnyPassword.as_view(), name="password"),
    path(f"{_S}/new-member/", members.NewMember.as_view(), name="member-new"),
    path(f"{_S}/import-members/", member_import.Import.as_view(), name="member-import"),
    path(f"{_M}/", members.OneMember.as_view(), name="member"),
    path(f"{_M}/enable/", members.Enabled.as_view(enabled=True), name="member-enable"),
    path(f"{_M}/disable/", members.Enabled.as_view(enabled=False), name="member-disable"),
    path(f"{_M}/delete/", members.DeleteMember.as_view(), name="member-delete"),
    path(f"{_M}/password/", members.MemberPassword.as_view(), name="member-password"),
    path(f"{_S}/rooms/", rooms.Rooms.as_view(), name="rooms"),
    path(f"{_S}/new-room/", rooms.NewRoom.as_view(), name="room-new"),
    path(f"{_R}/", rooms.OneRoom.as_view(), name="room"),
    path(f"{_R}/delete/", rooms.DeleteRoom.as_view(), name="room-delete"),
    path(f"{_R}/people/", room_people.People.as_view(), name="room-people"),
    path(f"{_R}/people/export/", room_people.Export.as_view(), name="room-export"),
    path(f"{_R}/people/import/", room_people.Import.as_view(), name="room-import"),
    path(f"{_S}/federation/", federation.Federation.as_view(), name="federation"),
    path(f"{_S}/federation/<str:remote>/retry/", federation.Retry.as_view(), name="link-retry"),
    path(f"{_S}/reliability/", reliability.Reliability.as_view(), name="reliability"),
]
