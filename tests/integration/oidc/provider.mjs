// A real issuer for tests: oidc-provider, with people who sign on unasked, and what it says of them as a test has it.
//
// node provider.mjs PORT REDIRECT_URI: serves http://127.0.0.1:PORT. PUT /control takes what is to change:
// { user, id_token, userinfo, ttl, key } as below.
import { createServer } from "node:http";
import { Provider } from "oidc-provider";
import { generateKeyPairSync } from "node:crypto";

const [port, home] = process.argv.slice(2);
const issuer = `http://127.0.0.1:${port}`;
const AUDIENCE = "https://desk.test/api";

const state = {
  user: "ada", // who signs on next
  id_token: { preferred_username: "ada", roles: ["reader"] }, // what ID tokens say, and access tokens
  userinfo: {}, // what userinfo says beside
  ttl: 3600, // seconds that access tokens hold
  key: "one", // that is signed with
};

const keys = Object.fromEntries(["one", "two"].map((kid) => {
  const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  return [kid, { ...privateKey.export({ format: "jwk" }), kid, use: "sig", alg: "RS256" }];
}));

const configuration = () => ({
  jwks: { keys: [keys[state.key]] },
  clients: [
    { client_id: "desk", backchannel_logout_uri: `${home}/signed-out`, backchannel_logout_session_required: true, client_secret: "a-secret-of-the-test", grant_types: ["authorization_code", "refresh_token"], redirect_uris: [`${home}/signed-in`], post_logout_redirect_uris: [`${home}/enter`] },
    { client_id: "public", token_endpoint_auth_method: "none", grant_types: ["authorization_code", "refresh_token"], redirect_uris: [`${home}/signed-in`], post_logout_redirect_uris: [`${home}/enter`] },
    { client_id: "program", client_secret: "a-secret-of-the-test", grant_types: ["client_credentials"], redirect_uris: [], response_types: [] },
  ],
  pkce: { required: () => true },
  fetch: (url, { dispatcher, ...options }) => globalThis.fetch(url, options), // it asks no address of this machine else
  scopes: ["openid", "profile", "offline_access"],
  claims: { openid: ["sub"], profile: ["preferred_username", "roles", "tenant"] },
  conformIdTokenClaims: false,
  rotateRefreshToken: true,
  cookies: { keys: ["a-key-of-the-test"] },
  ttl: { AccessToken: () => state.ttl, IdToken: 3600, RefreshToken: 86400, Session: 86400, Grant: 86400, Interaction: 3600, AuthorizationCode: 60, ClientCredentials: () => state.ttl },
  interactions: { url: (ctx, interaction) => `/interaction/${interaction.uid}` },
  findAccount: (ctx, sub) => ({ accountId: sub, claims: (use) => ({ sub, ...(use === "userinfo" ? state.userinfo : state.id_token) }) }),
  extraTokenClaims: () => state.id_token,
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    revocation: { enabled: true },
    backchannelLogout: { enabled: true },
    rpInitiatedLogout: { enabled: true, logoutSource: (ctx, form) => { ctx.body = `<!doctype html><body>${form}<button form="op.logoutForm" name="logout" value="yes">Sign out</button>`; } },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: (ctx, resource) => ({ scope: "", audience: resource, accessTokenFormat: "jwt", accessTokenTTL: state.ttl, jwt: { sign: { alg: "RS256" } } }),
    },
  },
});

let provider = new Provider(issuer, configuration());

async function interaction(request, response) {
  const { prompt, params, session, grantId } = await provider.interactionDetails(request, response);
  if (prompt.name === "login") return provider.interactionFinished(request, response, { login: { accountId: state.user } });
  const grant = grantId ? await provider.Grant.find(grantId) : new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
  grant.addOIDCScope("openid profile offline_access");
  return provider.interactionFinished(request, response, { consent: { grantId: await grant.save() } }, { mergeWithLastSubmission: true });
}

async function control(request, response) {
  let body = "";
  for await (const chunk of request) body += chunk;
  const changed = JSON.parse(body);
  Object.assign(state, changed);
  if (changed.key) provider = new Provider(issuer, configuration());
  response.end(JSON.stringify(state));
}

createServer((request, response) => {
  const failed = (error) => { console.error(error); response.statusCode = 500; response.end(String(error)); };
  if (request.url === "/control") return control(request, response).catch(failed);
  if (request.url.startsWith("/interaction/")) return interaction(request, response).catch(failed);
  return provider.callback()(request, response);
}).listen(Number(port), "127.0.0.1", () => console.log(`serves ${issuer} for ${AUDIENCE}`));
