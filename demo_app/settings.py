"""The demo's settings: the environment and `.env`, read once. Telemetry has its own settings and reads them itself."""

from __future__ import annotations

import secrets
from pathlib import Path

from pydantic import BaseModel, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

HERE = Path(__file__).parent


class Provider(BaseModel):
    """An OAuth 2 provider: where its consent page, its token endpoint and its API are, and who we are to it."""

    client_id: str
    client_secret: SecretStr
    authorize_url: str
    token_url: str
    api_url: str
    scope: str
    developer_token: SecretStr = SecretStr("")
    """Google Ads wants one with each call of its API; nobody else does."""


class GoogleAds(Provider):
    """Addresses from developers.google.com/identity/protocols/oauth2/web-server and /google-ads/api/rest."""

    authorize_url: str = "https://accounts.google.com/o/oauth2/v2/auth"
    token_url: str = "https://oauth2.googleapis.com/token"
    api_url: str = "https://googleads.googleapis.com/v26"
    scope: str = "https://www.googleapis.com/auth/adwords"


class MetaAds(Provider):
    """Addresses from developers.facebook.com/docs/facebook-login/guides/advanced/manual-flow."""

    authorize_url: str = "https://www.facebook.com/v25.0/dialog/oauth"
    token_url: str = "https://graph.facebook.com/v25.0/oauth/access_token"
    api_url: str = "https://graph.facebook.com/v25.0"
    scope: str = "ads_read"


class Shopify(Provider):
    """Its three addresses are those of your own shop (shopify.dev, authorization code grant): they have no default."""

    scope: str = "read_orders"


class Settings(BaseSettings):
    """`DEMO_…` variables; a provider's are nested: `DEMO_GOOGLE_ADS__CLIENT_ID`. Without them its stand-in is used."""

    model_config = SettingsConfigDict(
        env_prefix="DEMO_",
        env_nested_delimiter="__",
        env_file=".env",
        extra="ignore",
        hide_input_in_errors=True,  # an error about a provider would show its secret
    )

    database_url: str = "sqlite:///.metricx/demo.db"
    session_secret: SecretStr = Field(default_factory=lambda: SecretStr(secrets.token_urlsafe(32)))
    """Signs the session cookie. A new one each start unless it is set: everybody has to log in again then."""
    secure_cookies: bool = False
    """Send the session cookie over HTTPS only. The demo itself speaks HTTP, on loopback."""

    google_ads: GoogleAds | None = None
    meta_ads: MetaAds | None = None
    shopify: Shopify | None = None

    anthropic_api_key: SecretStr | None = Field(default=None, validation_alias="ANTHROPIC_API_KEY")
    """Without it the built-in offline model answers."""
    anthropic_model: str = "claude-haiku-5-5"
