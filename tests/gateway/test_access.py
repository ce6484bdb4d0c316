"""Who may ask, and how often: tokens, limits, origins, TLS."""

import asyncio
import base64
import datetime
import hashlib
import hmac
import json
import ssl
import time
from ipaddress import ip_address

import httpx
import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed, InvalidStatus

from gateway.sockets import open_socket

SECRET = "a secret that is long enough for the algorithm"
TRANSLATION = {"text": "The cat sleeps.", "tgt_lang": "pt"}
CONFIG = '[translate]\npairs = [{ src = "en", tgt = "pt", model = "translate-en-pt" }]\noptions = { temperature = 0 }\n'


def claims(**others):
    now = int(time.time())
    return {"sub": "somebody", "exp": now + 600, "aud": "textgen", "iss": "https://issuer.example", **others}


def without(name):
    kept = claims()
    del kept[name]
    return kept


def ask(gateway, token=None, **headers):
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    return httpx.post(gateway.url + "/translate", json=TRANSLATION, headers=headers, timeout=30)


def unsigned(header, payload):
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, payload)]
    return b".".join(parts)


def public_pem(key):
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form)


def jwk(key, **others):
    return {**json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key())), **others}


@pytest.fixture(scope="module")
def rsa_key():
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture(scope="module")
def other_key():
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture
def with_secret(own_gateway, tmp_path):
    (tmp_path / "secret").write_text(SECRET + "\n")
    return lambda *arguments: own_gateway("--jwt-key-file", str(tmp_path / "secret"), *arguments, config=CONFIG)


def hs256(payload=None, secret=SECRET, **header):
    return jwt.encode(payload or claims(), secret, algorithm="HS256", headers=header)


def test_hs256(with_secret, refused):
    arguments = ("--jwt-audience", "textgen", "--jwt-issuer", "https://issuer.example")
    now = int(time.time())
    with with_secret(*arguments) as gateway:
        assert ask(gateway, hs256()).status_code == 200
        assert ask(gateway, hs256(claims(aud=["other", "textgen"]))).status_code == 200
        assert ask(gateway, hs256(), Authorization="bearer " + hs256()).status_code == 200
        wrong = {
            "missing": None,
            "no token": "x",
            "three dots": "a.b.c",
            "long": "x" * 50_000,
            "expired": hs256(claims(exp=now - 600)),
            "not yet": hs256(claims(nbf=now + 600)),
            "forged": hs256(secret="another secret that is long enough as well"),
            "tampered": hs256()[:-4] + "AAAA",
            "other algorithm": jwt.encode(claims(), SECRET * 2, algorithm="HS512"),
            "none": jwt.encode(claims(), None, algorithm="none"),
            "none in capitals": (unsigned({"alg": "None"}, claims()) + b".").decode(),
            "other audience": hs256(claims(aud="other")),
            "other issuer": hs256(claims(iss="https://evil.example")),
            "no audience": hs256(without("aud")),
            "no issuer": hs256(without("iss")),
            "no end": hs256(without("exp")),
            "end that is no number": hs256({**without("exp"), "exp": "soon"}),
            "sub that is no text": hs256(claims(sub=3)),
            "own key": hs256(jwk={"kty": "oct", "k": "AAAA"}, secret="AAAA" * 20),
        }
        for what, token in wrong.items():
            answer = ask(gateway, token)
            assert answer.status_code == 401, (what, answer.text)
            refused(answer, 401, "unauthenticated")
            assert answer.headers["www-authenticate"].startswith("Bearer"), what
            assert SECRET not in answer.text
        assert ask(gateway, Authorization="Basic " + hs256()).status_code == 401
        assert "expired" in ask(gateway, wrong["expired"]).json()["error"]["message"]


def test_every_door_but_the_open_ones_wants_a_token(with_secret):
    with with_secret() as gateway, httpx.Client(base_url=gateway.url) as client:
        for method, path in [
            ("POST", "/augment"), ("POST", "/augment_batch"), ("POST", "/translate"), ("GET", "/ws/translate"),
            ("GET", "/v1/models"), ("GET", "/v1/models/chat"), ("POST", "/v1/chat/completions"),
            ("POST", "/v1/completions"), ("GET", "/translate"),
        ]:  # fmt: skip
            assert client.request(method, path).status_code == 401, path
        for path in ("/", "/health/live", "/health/ready", "/services", "/metrics"):
            assert client.get(path).status_code == 200, path
        assert client.get("/services").json()["auth"] is True
        assert client.get("/v1/models", headers={"Authorization": f"Bearer {hs256()}"}).status_code == 200


def test_a_socket_takes_its_token_as_a_subprotocol(with_secret):
    with with_secret() as gateway:
        with open_socket(gateway.url, subprotocols=["textgen", f"bearer.{hs256()}"]) as ws:
            assert ws.connection.subprotocol == "textgen"
            ws.tell(**TRANSLATION)
            assert ws.text_answer()
        with open_socket(gateway.url, additional_headers={"Authorization": f"Bearer {hs256()}"}) as ws:
            ws.tell(type="ping")
            assert ws.next() == {"type": "pong"}
        for subprotocols in (None, ["textgen"], ["textgen", "bearer.x"], ["textgen", f"bearer.{hs256(claims(exp=1))}"]):
            with pytest.raises(InvalidStatus) as error:
                with open_socket(gateway.url, subprotocols=subprotocols):
                    pass
            assert error.value.response.status_code == 401


def test_rs256_by_a_key_file(own_gateway, tmp_path, rsa_key, other_key):
    (tmp_path / "key.pem").write_bytes(public_pem(rsa_key))
    arguments = ("--jwt-algorithm", "RS256", "--jwt-key-file", str(tmp_path / "key.pem"))
    with own_gateway(*arguments, config=CONFIG) as gateway:
        assert ask(gateway, jwt.encode(claims(), rsa_key, algorithm="RS256")).status_code == 200
        # Whoever has the public key must not be able to sign with it.
        head = unsigned({"alg": "HS256", "typ": "JWT"}, claims())
        signature = hmac.new(public_pem(rsa_key), head, hashlib.sha256).digest()
        confused = head + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")
        for what, token in {
            "confusion": confused.decode(),
            "other key": jwt.encode(claims(), other_key, algorithm="RS256"),
            "other algorithm": jwt.encode(claims(), rsa_key, algorithm="RS512"),
            "none": jwt.encode(claims(), None, algorithm="none"),
            "expired": jwt.encode(claims(exp=1), rsa_key, algorithm="RS256"),
            "missing": None,
        }.items():
            assert ask(gateway, token).status_code == 401, what


def test_rs256_by_a_key_set(own_gateway, tmp_path, rsa_key, other_key):
    third = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    keys = {"keys": [jwk(rsa_key, kid="one"), jwk(other_key, kid="two")]}
    (tmp_path / "keys.json").write_text(json.dumps(keys))
    arguments = ("--jwt-algorithm", "RS256", "--jwt-jwks-file", str(tmp_path / "keys.json"))
    with own_gateway(*arguments, config=CONFIG) as gateway:
        signed = lambda key, **header: jwt.encode(claims(), key, algorithm="RS256", headers=header)
        assert ask(gateway, signed(rsa_key, kid="one")).status_code == 200
        assert ask(gateway, signed(other_key, kid="two")).status_code == 200
        for what, token in {
            "another's id": signed(rsa_key, kid="two"),
            "unknown id": signed(third, kid="three"),
            "no id": signed(third),
            "own key": signed(third, jwk=jwk(third)),
            "key elsewhere": signed(third, kid="one", jku="http://evil.example/keys"),
        }.items():
            assert ask(gateway, token).status_code == 401, what


def test_requests_of_an_address(own_gateway, refused):
    with own_gateway("--requests-per-minute", "3", config=CONFIG) as gateway:
        answers = [ask(gateway, **{"X-Forwarded-For": f"10.0.0.{number}"}) for number in range(5)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
        refused(answers[-1], 429, "rate_limited")
        assert 0 < int(answers[-1].headers["retry-after"]) <= 60
        assert httpx.get(gateway.url + "/health/live").status_code == 200


def test_an_address_behind_trusted_proxies(own_gateway):
    with own_gateway("--requests-per-minute", "1", "--trusted-proxies", "1", config=CONFIG) as gateway:
        forwarded = lambda value: ask(gateway, **{"X-Forwarded-For": value}).status_code
        assert [forwarded("10.0.0.1"), forwarded("10.0.0.2"), forwarded("10.0.0.1")] == [200, 200, 429]
        assert forwarded("6.6.6.6, 10.0.0.1") == 429, "what stands before the proxy's word is made up"
        assert [forwarded("2001:db8::1"), forwarded("2001:db8::2")] == [200, 429]


def test_messages_of_an_address(own_gateway):
    with own_gateway("--messages-per-minute", "2", config=CONFIG) as gateway, open_socket(gateway.url) as ws:
        for _ in range(2):
            ws.tell(type="ping")
            assert ws.next() == {"type": "pong"}
        ws.tell(type="ping")
        assert ws.next()["error"]["code"] == "rate_limited"
        assert ws.next()["type"] == "closing"
        with pytest.raises(ConnectionClosed) as error:
            ws.next()
        assert error.value.rcvd.code == 1008


def test_requests_of_a_token(with_secret):
    with with_secret("--token-requests-per-minute", "2") as gateway:
        mine, others = hs256(), hs256(claims(sub="another"))
        assert [ask(gateway, token).status_code for token in (mine, mine, mine, others)] == [200, 200, 429, 200]
        newer = hs256(claims(exp=int(time.time()) + 900))
        assert ask(gateway, newer).status_code == 429, "it counts whom a token is for"


def test_other_origins(own_gateway, demo):
    with own_gateway("--cors-origins", "https://page.example", config=CONFIG) as gateway:
        for origin, status in {
            gateway.url: 200, "https://page.example": 200, "https://page.example.evil": 403,
            "http://page.example": 403, "null": 403, "": 403,
        }.items():  # fmt: skip
            answer = ask(gateway, Origin=origin)
            assert answer.status_code == status, origin
            allowed = answer.headers.get("access-control-allow-origin")
            assert allowed == (origin if origin == "https://page.example" else None)
        with open_socket(gateway.url, origin="https://page.example"):
            pass
        for origin in ("https://evil.example", "null"):
            with pytest.raises(InvalidStatus) as error:
                with open_socket(gateway.url, origin=origin):
                    pass
            assert error.value.response.status_code == 403
        preflight = lambda origin: httpx.options(
            gateway.url + "/translate",
            headers={
                "Origin": origin,
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "authorization,content-type",
            },
        ).headers
        allowed = preflight("https://page.example")
        assert allowed["access-control-allow-origin"] == "https://page.example"
        assert "POST" in allowed["access-control-allow-methods"]
        assert "authorization" in allowed["access-control-allow-headers"]
        assert "access-control-allow-origin" not in preflight("https://evil.example")
    # Nobody is allowed where nothing is said.
    assert ask(demo, Origin="https://page.example").status_code == 403
    answer = httpx.options(demo.url + "/translate", headers={"Origin": "https://page.example"})
    assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers


async def text_mode(url, trusted):
    """The frames that answer a translation. The client with threads reads and writes one TLS connection at once, and
    now and then never sends its handshake."""
    async with connect_async(url.replace("https", "wss") + "/ws/translate", ssl=trusted, proxy=None) as ws:
        await ws.send(json.dumps(TRANSLATION))
        frames = []
        while "[END]" not in frames:
            frames.append(await ws.recv())
        return frames


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_tls(own_gateway, tmp_path):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (tmp_path / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    arguments = ("--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem"))
    with own_gateway(*arguments, config=CONFIG, scheme="https") as gateway:
        trusted = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
        answer = httpx.post(gateway.url + "/translate", json=TRANSLATION, verify=trusted)
        assert answer.status_code == 200
        frames = asyncio.run(text_mode(gateway.url, trusted))
        assert "".join(frames[:-1]) == answer.json()["translated_text"] and frames[-1] == "[END]"
        # A page's own origin is its own here too.
        own = {"Origin": gateway.url}
        assert httpx.post(gateway.url + "/translate", json=TRANSLATION, verify=trusted, headers=own).status_code == 200
        with pytest.raises(httpx.HTTPError):
            httpx.get(gateway.url.replace("https", "http") + "/health/live")
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(httpx.HTTPError):
            httpx.get(gateway.url + "/health/live", verify=old)
