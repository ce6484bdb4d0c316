//! Tokens: JSON Web Tokens in HS256 or RS256. Only the configured algorithm counts, whatever a token says of itself.

use std::{collections::HashMap, fs, path::Path};

use axum::http::{HeaderMap, header};
use jsonwebtoken::{
    Algorithm, DecodingKey, Validation, decode, decode_header,
    jwk::{AlgorithmParameters, JwkSet},
};
use serde::Deserialize;

use crate::{
    error::{ApiError, Result},
    settings::{JwtAlgorithm, Operation},
};

/// Fewest bytes of a secret.
const MIN_SECRET_BYTES: usize = 32;
/// Beside a token's own subprotocol, a WebSocket offers this one, which is chosen.
pub const SUBPROTOCOL: &str = "textgen";
const TOKEN_SUBPROTOCOL: &str = "bearer.";

/// Checks tokens.
pub struct Tokens {
    validation: Validation,
    /// For tokens that name no key.
    key: Option<DecodingKey>,
    /// By the id that a token names.
    keys: HashMap<String, DecodingKey>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Claims {
    sub: Option<String>,
}

impl Tokens {
    /// None where no key is configured.
    pub fn read(operation: &Operation) -> std::result::Result<Option<Self>, String> {
        let Operation { jwt_algorithm, jwt_key_file, jwt_jwks_file, jwt_audience, jwt_issuer, .. } =
            operation;
        if jwt_key_file.is_none() && jwt_jwks_file.is_none() {
            return match (jwt_audience, jwt_issuer) {
                (None, None) => Ok(None),
                _ => {
                    Err("jwt_audience, jwt_issuer: no token is asked for; give jwt_key_file or jwt_jwks_file"
                        .into())
                }
            };
        }
        let mut validation = Validation::new(match jwt_algorithm {
            JwtAlgorithm::Hs256 => Algorithm::HS256,
            JwtAlgorithm::Rs256 => Algorithm::RS256,
        });
        validation.validate_nbf = true;
        match jwt_audience {
            Some(audience) => validation.set_audience(&[audience]),
            None => validation.validate_aud = false,
        }
        if let Some(issuer) = jwt_issuer {
            validation.set_issuer(&[issuer]);
        }
        let mut required = vec!["exp"];
        required.extend(jwt_audience.as_ref().map(|_| "aud"));
        required.extend(jwt_issuer.as_ref().map(|_| "iss"));
        validation.set_required_spec_claims(&required);
        let key = jwt_key_file.as_deref().map(|path| key_of(path, *jwt_algorithm)).transpose()?;
        let keys = jwt_jwks_file.as_deref().map(|path| keys_of(path, *jwt_algorithm)).transpose()?;
        Ok(Some(Self { validation, key, keys: keys.unwrap_or_default() }))
    }

    /// Whom the token of a request is for; an error when there is none or it does not hold.
    pub fn subject(&self, headers: &HeaderMap) -> Result<String> {
        let token = token(headers).ok_or_else(|| {
            ApiError::unauthenticated("a token is missing; send it as `Authorization: Bearer TOKEN`")
        })?;
        let refused = |error: jsonwebtoken::errors::Error| {
            use jsonwebtoken::errors::ErrorKind;
            ApiError::unauthenticated(match error.kind() {
                ErrorKind::ExpiredSignature => "the token has expired; ask for a new one".to_owned(),
                ErrorKind::ImmatureSignature => "the token is not valid yet".to_owned(),
                ErrorKind::InvalidAudience => "the token is for another audience".to_owned(),
                ErrorKind::InvalidIssuer => "the token is of another issuer".to_owned(),
                ErrorKind::MissingRequiredClaim(claim) => format!("the token has no claim `{claim}`"),
                _ => "the token is not valid".to_owned(),
            })
        };
        let named = decode_header(token).map_err(refused)?.kid;
        let named = named.and_then(|id| self.keys.get(&id));
        let only = || self.keys.values().next().filter(|_| self.keys.len() == 1);
        let key = named.or(self.key.as_ref()).or_else(only);
        let key =
            key.ok_or_else(|| ApiError::unauthenticated("the token names no key that is known here"))?;
        let claims = decode::<Claims>(token, key, &self.validation).map_err(refused)?.claims;
        Ok(claims.sub.unwrap_or_default())
    }
}

fn token(headers: &HeaderMap) -> Option<&str> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    let offered =
        headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    bearer.or_else(|| {
        offered.flat_map(|value| value.split(',')).find_map(|one| one.trim().strip_prefix(TOKEN_SUBPROTOCOL))
    })
}

fn read(key: &str, path: &Path) -> std::result::Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("{key}: {}: {error}", path.display()))
}

fn key_of(path: &Path, algorithm: JwtAlgorithm) -> std::result::Result<DecodingKey, String> {
    let bytes = read("jwt_key_file", path)?;
    let is_pem = bytes.starts_with(b"-----BEGIN");
    match algorithm {
        JwtAlgorithm::Rs256 => DecodingKey::from_rsa_pem(&bytes)
            .map_err(|error| format!("jwt_key_file: expected an RSA public key in PEM: {error}")),
        // A public key is no secret: whoever has it could sign with it.
        JwtAlgorithm::Hs256 if is_pem => {
            Err("jwt_key_file: got a key in PEM, expected a secret; for a public key set jwt_algorithm = \"RS256\"".into())
        }
        JwtAlgorithm::Hs256 => {
            let secret = bytes.trim_ascii_end();
            match secret.len() {
                ..MIN_SECRET_BYTES => Err(format!(
                    "jwt_key_file: got a secret of {} bytes, expected {MIN_SECRET_BYTES} or more",
                    secret.len()
                )),
                _ => Ok(DecodingKey::from_secret(secret)),
            }
        }
    }
}

fn keys_of(
    path: &Path,
    algorithm: JwtAlgorithm,
) -> std::result::Result<HashMap<String, DecodingKey>, String> {
    let wrong = |error: &dyn std::fmt::Display| format!("jwt_jwks_file: {}: {error}", path.display());
    let set: JwkSet = serde_json::from_slice(&read("jwt_jwks_file", path)?).map_err(|error| wrong(&error))?;
    let mut keys = HashMap::new();
    for (index, key) in set.keys.iter().enumerate() {
        let fits = matches!(
            (&key.algorithm, algorithm),
            (AlgorithmParameters::RSA(_), JwtAlgorithm::Rs256)
                | (AlgorithmParameters::OctetKey(_), JwtAlgorithm::Hs256)
        );
        if fits {
            let id = key.common.key_id.clone().unwrap_or_else(|| format!("#{index}"));
            keys.insert(id, DecodingKey::from_jwk(key).map_err(|error| wrong(&error))?);
        }
    }
    match keys.is_empty() {
        true => Err(wrong(&format!("it has no key for {algorithm}"))),
        false => Ok(keys),
    }
}
