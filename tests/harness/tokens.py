"""JSON Web Tokens for gateways with authentication."""

import base64
import hashlib
import hmac
import json


def signed_token(secret: bytes, **claims) -> str:
    """A JSON Web Token by HS256."""

    def encoded(raw: bytes) -> str:
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    head = encoded(json.dumps({"alg": "HS256", "typ": "JWT"}).encode())
    body = encoded(json.dumps(claims).encode())
    return f"{head}.{body}.{encoded(hmac.new(secret, f'{head}.{body}'.encode(), hashlib.sha256).digest())}"
