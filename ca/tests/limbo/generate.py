#!/usr/bin/env python3
"""Makes vectors.json: certificate chains and what a verifier must say of them.

The shape is that of C2SP's x509-limbo; the certificates are made by the Python package
`cryptography`, so that neither the library that issues ours nor the one that verifies them has a
hand in it. Each run makes new keys; the file is checked in, so that a test run needs no Python.

    pip install cryptography && ./generate.py > vectors.json
"""

import datetime as dt
import json
import sys

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID as Eku
from cryptography.x509.oid import NameOID

NOW = dt.datetime(2026, 11, 20, 12, 0, tzinfo=dt.timezone.utc)
HOUR = dt.timedelta(hours=1)
DAY = dt.timedelta(days=1)
ISSUING = dict(key_cert_sign=True, crl_sign=True)
KEYS = {"p256": lambda: ec.generate_private_key(ec.SECP256R1())}
KEYS["p384"] = lambda: ec.generate_private_key(ec.SECP384R1())
KEYS["p521"] = lambda: ec.generate_private_key(ec.SECP521R1())
KEYS["rsa2048"] = lambda: rsa.generate_private_key(65537, 2048)
KEYS["rsa1024"] = lambda: rsa.generate_private_key(65537, 1024)
KEYS["ed25519"] = ed25519.Ed25519PrivateKey.generate


def key_usage(**on):
    names = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement "
        "key_cert_sign crl_sign encipher_only decipher_only"
    )
    return x509.KeyUsage(**{name: on.get(name, False) for name in names.split()})


def name(*attributes):
    oids = {"O": NameOID.ORGANIZATION_NAME, "OU": NameOID.ORGANIZATIONAL_UNIT_NAME}
    oids["CN"] = NameOID.COMMON_NAME
    return x509.Name([x509.NameAttribute(oids[kind], value) for kind, value in attributes])


class Holder:
    """A certificate with its key."""

    def __init__(self, cert, key):
        self.cert, self.key = cert, key

    def pem(self):
        return self.cert.public_bytes(serialization.Encoding.PEM).decode()


def make(subject, issuer=None, kind="p256", key=None, hash=hashes.SHA256(), start=NOW - HOUR,
         end=NOW + DAY, extensions=(), aki=True):
    """A certificate for `subject`, by `issuer` or by itself."""
    key = key or KEYS[kind]()
    signer = issuer.key if issuer else key
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.cert.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
    )
    if issuer and aki:
        public = issuer.key.public_key()
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(public), False
        )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    if isinstance(signer, ed25519.Ed25519PrivateKey):
        hash = None
    return Holder(builder.sign(signer, hash), key)


def ca(common_name="swarm-ca", issuer=None, path=None, usage=ISSUING, is_ca=True, more=(), **rest):
    extensions = []
    if is_ca is not None:
        extensions.append((x509.BasicConstraints(is_ca, path if is_ca else None), True))
    if usage is not None:
        extensions.append((key_usage(**usage), True))
    rest.setdefault("end", NOW + 7300 * DAY)
    return make(name(("CN", common_name)), issuer, extensions=extensions + list(more), **rest)


SUBJECT = (("O", "clusterid"), ("OU", "swarm-manager"), ("CN", "nodeid"))
BOTH = (Eku.SERVER_AUTH, Eku.CLIENT_AUTH)


def leaf(issuer, subject=SUBJECT, eku=BOTH, is_ca=False, more=(), sans=None, **rest):
    extensions = [
        (key_usage(digital_signature=True, key_encipherment=True), True),
        (x509.BasicConstraints(is_ca, None), True),
    ]
    names = sans or ["swarm-manager", "nodeid", "swarm-ca"]
    extensions.append((x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), False))
    if eku is not None:
        extensions.append((x509.ExtendedKeyUsage(eku), False))
    return make(name(*subject), issuer, extensions=extensions + list(more), **rest)


CASES = []


def case(id, says, expected, roots, peer, between=(), kind="SERVER", at=NOW):
    CASES.append({
        "id": id,
        "features": [],
        "importance": "undetermined",
        "description": says,
        "validation_kind": kind,
        "trusted_certs": [root.pem() for root in roots],
        "untrusted_intermediates": [holder.pem() for holder in between],
        "peer_certificate": peer.pem(),
        "peer_certificate_key": None,
        "validation_time": at.isoformat(),
        "signature_algorithms": [],
        "key_usage": [],
        "extended_key_usage": [],
        "expected_result": "SUCCESS" if expected else "FAILURE",
        "expected_peer_name": None,
        "expected_peer_names": [],
        "max_chain_depth": None,
        "conflicts_with": [],
    })


def paths():
    root, other = ca(), ca()
    direct = leaf(root)
    case("path::direct", "A leaf of the root.", True, [root], direct)
    case("path::client", "The same as a client.", True, [root], direct, kind="CLIENT")
    case("path::root-sent", "The root is sent along.", True, [root], direct, [root])
    case("path::two-roots", "One of two roots of equal names.", True, [other, root], direct)
    case("path::same-name", "A root of the same name with another key.", False, [other], direct)
    case("path::other-name", "A root of another name.", False, [ca("other")], direct)
    middle = ca("middle", root)
    below = leaf(middle)
    case("path::intermediate", "A leaf of an intermediate.", True, [root], below, [middle])
    case("path::missing", "The intermediate is not sent.", False, [root], below)
    case("path::unrelated", "Another CA between them in the list.", True, [root], below,
         [ca("unrelated"), middle])
    lower = ca("lower", middle)
    deep = leaf(lower)
    case("path::unordered", "Intermediates upside down.", True, [root], deep, [middle, lower])
    lowest = ca("lowest", lower)
    case("path::four", "Four certificates, as many as are accepted.", True, [root], leaf(lowest),
         [lowest, lower, middle])
    last = ca("last", lowest)
    case("path::five", "Five certificates.", False, [root], leaf(last),
         [last, lowest, lower, middle])
    case("path::leaf-as-issuer", "A leaf signs a leaf.", False, [root], leaf(direct), [direct])
    case("path::self-signed-leaf", "A leaf that signed itself.", False, [root], leaf(None))


def rotation():
    old, new = ca(), ca()
    subject = new.cert.subject
    cross = ca(issuer=old, key=new.key)
    assert cross.cert.subject == subject
    moved = leaf(new)
    case("rotation::new", "A leaf of the new root where that is trusted.", True, [new], moved,
         [cross])
    case("rotation::old", "The same where the old root is trusted, by the cross-signed one.", True,
         [old], moved, [cross])
    case("rotation::without-cross", "The cross-signed root is not sent.", False, [old], moved)
    case("rotation::back", "A leaf of the old root is none of the new one's.", False, [new],
         leaf(old), [cross])
    bare = ca(issuer=old, key=new.key, aki=False)
    case("rotation::no-aki", "The cross-signed root names no key, as stock managers make it.",
         True, [old], moved, [bare])
    ended = ca(issuer=old, key=new.key, start=NOW - 2 * DAY, end=NOW - DAY)
    case("rotation::ended", "The cross-signed root has expired.", False, [old], moved, [ended])
    slow, fast = NOW - dt.timedelta(minutes=50), NOW + dt.timedelta(minutes=50)
    case("rotation::slow", "The verifier's clock is 50 min slow.", True, [old], moved, [cross],
         at=slow)
    case("rotation::fast", "The verifier's clock is 50 min fast.", True, [old], moved, [cross],
         at=fast)


def validity():
    root = ca()
    held = leaf(root)
    for id, at, good in (
        ("first-second", NOW - HOUR, True),
        ("before", NOW - HOUR - dt.timedelta(seconds=1), False),
        ("last-second", NOW + DAY, True),
        ("after", NOW + DAY + dt.timedelta(seconds=1), False),
    ):
        case(f"validity::{id}", "A leaf at the edge of its validity.", good, [root], held, at=at)
    middle = ca("middle", root, start=NOW - 2 * DAY, end=NOW - DAY)
    case("validity::intermediate", "An intermediate that has ended.", False, [root], leaf(middle),
         [middle])
    late = ca("middle", root, start=NOW + dt.timedelta(seconds=5))
    case("validity::intermediate-early", "An intermediate that begins in 5 s.", False, [root],
         leaf(late), [late])
    old = ca(start=NOW - 2 * DAY, end=NOW - DAY)
    case("validity::root", "A root that has ended, which TLS libraries pass over.", False, [old],
         leaf(old))
    early = ca(start=NOW + HOUR)
    case("validity::root-early", "A root that has not begun.", False, [early], leaf(early))
    case("validity::far", "A root and a leaf beyond 2049.", True, [ca_far := ca(end=dt.datetime(
        2060, 1, 1, tzinfo=dt.timezone.utc))], leaf(ca_far, end=dt.datetime(
            2055, 1, 1, tzinfo=dt.timezone.utc)))


def keys():
    for kind, hash, good in (
        ("p384", hashes.SHA384(), True),
        ("p384", hashes.SHA256(), True),
        ("p256", hashes.SHA384(), True),
        ("rsa2048", hashes.SHA256(), True),
        ("rsa2048", hashes.SHA512(), True),
        ("rsa1024", hashes.SHA256(), False),
        ("p521", hashes.SHA512(), False),
        ("ed25519", hashes.SHA256(), False),
        ("rsa2048", hashes.SHA224(), False),
        ("p256", hashes.SHA224(), False),
    ):
        root = ca(kind=kind, hash=hash)
        says = f"A root with {kind} and {hash.name}."
        id = f"keys::{kind}-{hash.name}"
        case(id, says, good, [root], leaf(root, hash=hash))
    root = ca()
    weak = ca("middle", root, kind="rsa1024")
    case("keys::weak-intermediate", "An intermediate of 1024 bits.", False, [root], leaf(weak),
         [weak])
    signed = leaf(root, hash=hashes.SHA224())
    case("keys::sha224-leaf", "A leaf signed with SHA-224.", False, [root], signed)


def constraints():
    for id, says, middle in (
        ("not-a-ca", "An intermediate that is no CA.", dict(is_ca=False)),
        ("no-basic", "An intermediate without basicConstraints.", dict(is_ca=None)),
        ("no-sign", "An intermediate that may not sign.", dict(usage=dict(crl_sign=True))),
    ):
        root = ca()
        between = ca("middle", root, **middle)
        case(f"constraints::{id}", says, False, [root], leaf(between), [between])
    root = ca(path=0)
    case("constraints::path-0", "A root that allows no intermediate, and none.", True, [root],
         leaf(root))
    between = ca("middle", root)
    case("constraints::path-0-exceeded", "The same with one.", False, [root], leaf(between),
         [between])
    root = ca()
    short = ca("middle", root, path=0)
    lower = ca("lower", short)
    case("constraints::path-in-the-middle", "An intermediate that allows none below.", False,
         [root], leaf(lower), [lower, short])
    case("constraints::ca-leaf", "A leaf that is a CA.", False, [root], leaf(root, is_ca=True))
    unknown = (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True)
    case("constraints::unknown-critical", "A leaf with an unknown critical extension.", False,
         [root], leaf(root, more=[unknown]))
    loose = (unknown[0], False)
    case("constraints::unknown", "The same, not critical.", True, [root], leaf(root, more=[loose]))
    strange = ca("middle", root, more=[unknown])
    case("constraints::unknown-critical-ca", "An intermediate with one.", False, [root],
         leaf(strange), [strange])
    for id, names, good in (("permits", ["nodeid", "swarm-manager", "swarm-ca"], True),
                            ("forbids", ["example.com"], False)):
        permitted = [x509.DNSName(n) for n in names]
        bound = ca(more=[(x509.NameConstraints(permitted, None), True)])
        case(f"constraints::names-{id}", "A root with name constraints.", good, [bound],
             leaf(bound))
    for id, says, change in (
        ("root-not-a-ca", "A root that is no CA.", dict(is_ca=False)),
        ("root-no-basic", "A root without basicConstraints.", dict(is_ca=None)),
        ("root-no-sign", "A root that may not sign.", dict(usage=dict(crl_sign=True))),
    ):
        bad = ca(**change)
        case(f"constraints::{id}", says, False, [bad], leaf(bad))
    top = ca("top")
    middle = ca("middle", top)
    case("constraints::intermediate-as-root", "An intermediate in the place of a root.", False,
         [middle], leaf(middle))


def purposes():
    root = ca()
    for id, eku, server, client in (
        ("both", BOTH, True, True),
        ("server", [Eku.SERVER_AUTH], True, False),
        ("client", [Eku.CLIENT_AUTH], False, True),
        ("none", None, True, True),
        ("any", [Eku.ANY_EXTENDED_KEY_USAGE], False, False),
        ("other", [Eku.CODE_SIGNING], False, False),
    ):
        held = leaf(root, eku=eku)
        for kind, good in (("SERVER", server), ("CLIENT", client)):
            case(f"purpose::{id}-{kind.lower()}", f"Extended key usage: {id}.", good, [root], held,
                 kind=kind)


def identities():
    root = ca()
    for id, says, subject in (
        ("no-organization", "No cluster.", SUBJECT[1:]),
        ("no-unit", "No role.", (SUBJECT[0], SUBJECT[2])),
        ("no-name", "No node.", SUBJECT[:2]),
        ("two-units", "Two roles.", (SUBJECT[0], SUBJECT[1], ("OU", "swarm-worker"), SUBJECT[2])),
        ("two-names", "Two nodes.", SUBJECT + (("CN", "another"),)),
        ("unknown-unit", "A role that is none.", (SUBJECT[0], ("OU", "admin"), SUBJECT[2])),
        ("path", "A node that names a path.", SUBJECT[:2] + (("CN", "../root"),)),
        ("space", "A node with a space.", SUBJECT[:2] + (("CN", "node id"),)),
    ):
        case(f"identity::{id}", says, False, [root], leaf(root, subject=subject), kind="CLIENT")
    worker = (SUBJECT[0], ("OU", "swarm-worker"), SUBJECT[2])
    case("identity::worker", "A worker.", True, [root], leaf(root, subject=worker), kind="CLIENT")


for part in (paths, rotation, validity, keys, constraints, purposes, identities):
    part()
json.dump({"version": 1, "testcases": CASES}, sys.stdout, indent=1)
print()
