"""What each check is called, which follows from which, and the cause that a walk's failing step speaks for.

A cheap round names its causes itself (``probes.quick``). The words for people are here, for incidents and pages.
"""

from __future__ import annotations

from controlplane.probes.report import StepResult

#: Check -> the checks that it cannot work without. A check that fails because of one of those has no incident.
NEEDS: dict[str, tuple[str, ...]] = {
    "resolve": (),
    "ports": ("resolve",),
    "tls": ("ports",),
    "host-meta": ("tls",),
    "names": ("resolve",),
    "certificates": ("tls", "names"),
    "web": ("host-meta", "certificates"),
    "login": ("tls", "certificates"),
    "disco": ("login",),
    "archive": ("disco",),
    "upload": ("disco",),
    "muc": ("disco",),
    "turn": ("disco",),
    "s2s": ("disco",),
    "clock": (),
}
#: What the cheap round measures; the rest is the walk's.
CHEAP = frozenset({"resolve", "ports", "tls", "host-meta"})
#: The walk looks at more than a cheap round under these names (each component's names, certificates and addresses,
#: the WebSocket and BOSH endpoints), so that one cannot hide the other.
STEP_CHECKS = {"resolve": "names", "tls": "certificates", "host-meta": "web"}

TITLES = {
    "resolve": "its names are not found",
    "ports": "its ports do not answer as they should",
    "tls": "its ports do not serve the right certificate",
    "host-meta": "its web address does not answer as it should",
    "names": "some of its names are not found",
    "certificates": "some of its ports do not serve the right certificate",
    "web": "web clients do not get in",
    "login": "nobody can log in",
    "disco": "something that it should offer is missing",
    "archive": "its message archive does not work",
    "upload": "files cannot be uploaded",
    "muc": "rooms do not work",
    "turn": "calls cannot be relayed",
    "s2s": "other servers are not reached",
    "clock": "its clock is wrong",
}
#: Cause -> what it means, for the documentation and for pages.
CAUSES = {
    "DnsMissing": "An SRV or address record that clients need is not there.",
    "DnsServerDown": "The name servers give no answer.",
    "PortClosed": "Nothing listens at an address and port that DNS leads to.",
    "EngineDown": "The edge takes connections and closes them: no engine behind it.",
    "EngineSilent": "Connections are taken and nothing is said: the engine hangs.",
    "StreamRefused": "The server ends the stream with an error.",
    "NoStarttls": "A port offers no encryption.",
    "TlsFails": "The TLS handshake fails.",
    "CertificateExpired": "The certificate that is served has expired.",
    "CertificateNotYetValid": "The certificate that is served is not valid yet.",
    "CertificateNotTrusted": "The certificate does not lead to a trusted root.",
    "WrongCertificate": "Another certificate is served than the one that was issued last, or one for other names.",
    "CertificateEndsSoon": "The certificate ends soon and was not renewed.",
    "WebSilent": "The web address does not answer.",
    "WebFails": "The web address answers wrongly.",
    "DiskFull": "The disk on which the server keeps its data is full.",
    "LoginFails": "The probe account cannot log in.",
    "FeaturesMissing": "Something that every server has to offer is not announced.",
    "ArchiveFails": "A message is not found again in the archive.",
    "UploadFails": "A file cannot be uploaded or does not come back.",
    "RoomsFail": "A room cannot be made, used or destroyed.",
    "TurnUnreachable": "The TURN server does not answer.",
    "TurnWrongSecret": "The TURN server does not know the secret that the server announces.",
    "TurnRefused": "The TURN server refuses for another reason.",
    "RelayClosed": "The TURN server answers, and what is sent through its relay ports does not arrive.",
    "TurnFails": "The TURN service does not work.",
    "PeerSilent": "Another server does not answer over s2s.",
    "ClockOff": "A clock is wrong.",
    "ProberCutOff": "The prober reaches none of its references: it judges nothing.",
    "CheckFails": "The check fails.",
}
_STEP_CAUSES = {
    "resolve": "DnsMissing",
    "login": "LoginFails",
    "disco": "FeaturesMissing",
    "archive": "ArchiveFails",
    "upload": "UploadFails",
    "muc": "RoomsFail",
    "turn": "TurnFails",
    "host-meta": "WebFails",
    "s2s": "PeerSilent",
    "clock": "ClockOff",
}
#: The words of ``probes.trust.explain`` and ``probes.tls``, in lower case.
_TLS_WORDS = (
    ("has expired", "CertificateExpired"),
    ("not valid yet", "CertificateNotYetValid"),
    ("the certificate is not for", "WrongCertificate"),
    ("the certificate has serial", "WrongCertificate"),
    ("trusted root", "CertificateNotTrusted"),
    ("nothing listens", "PortClosed"),
    ("no answer in time", "EngineSilent"),
    ("connection was closed", "EngineDown"),
    ("no starttls", "NoStarttls"),
)


def ancestors(check: str) -> frozenset[str]:
    """All checks that it cannot work without."""
    found: set[str] = set()
    for need in NEEDS.get(check, ()):
        found |= {need} | ancestors(need)
    return frozenset(found)


def of_step(step: StepResult) -> str:
    """The cause that a failing step of the walk speaks for."""
    said = step.details.get("cause")
    if isinstance(said, str) and said in CAUSES:
        return said
    if step.name == "tls":
        text = step.message.lower()
        return next((cause for words, cause in _TLS_WORDS if words in text), "TlsFails")
    return _STEP_CAUSES.get(step.name, "CheckFails")
