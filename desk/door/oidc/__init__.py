"""OpenID Connect: what an issuer says about itself, its tokens, their claims, and signing on."""
