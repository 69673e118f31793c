"""OpenID Connect: what an issuer says of itself, its tokens, their claims, and signing on."""
