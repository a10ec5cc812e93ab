"""Before anything imports Ray, which reads these when it is loaded: every Ray of the tests asks for a token."""

import os
import secrets

os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
