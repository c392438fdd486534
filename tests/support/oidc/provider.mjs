// An OpenID provider for the tests: `oidc-provider` as it is, with two public clients and people who need no password.
//
// Told by the JSON in argv[2]: port, alg (RS256 or ES256), users (id to claims), accessTokenSecs, interval (seconds of
// the device flow). Whoever is named in the header `X-User` is signed in and consents; `refuser` says no.
// POST /test/rotate makes a new signing key; POST /test/opaque shows whether refresh and access tokens still exist.

import { generateKeyPairSync } from 'node:crypto';
import { createServer } from 'node:http';

import { Provider } from 'oidc-provider';

const options = JSON.parse(process.argv[2]);
const issuer = `http://127.0.0.1:${options.port}`;
const DEVICE = 'urn:ietf:params:oauth:grant-type:device_code';
let generation = 0;

function newKey() {
  generation += 1;
  const { privateKey } = options.alg.startsWith('RS')
    ? generateKeyPairSync('rsa', { modulusLength: 2048 })
    : generateKeyPairSync('ec', { namedCurve: 'P-256' });
  return { ...privateKey.export({ format: 'jwk' }), use: 'sig', alg: options.alg, kid: `key-${generation}` };
}

const client = (id) => ({
  client_id: id,
  application_type: 'native',
  token_endpoint_auth_method: 'none',
  grant_types: ['authorization_code', 'refresh_token', DEVICE],
  response_types: ['code'],
  redirect_uris: ['http://127.0.0.1/callback'],
  id_token_signed_response_alg: options.alg,
});

const claimsOf = (id) => ({ sub: id, ...options.users[id] });

// What was signed with the old key stays signed with it; what is stored survives, since the store is shared.
function open(keys) {
  return new Provider(issuer, {
    clients: [client('dbward'), client('dbward-jwt')],
    jwks: { keys },
    cookies: { keys: ['not a secret here'] },
    claims: { openid: ['sub'], profile: ['name'], email: ['email'], groups: ['groups'] },
    scopes: ['openid', 'offline_access', 'profile', 'email', 'groups'],
    conformIdTokenClaims: false,
    enabledJWA: { idTokenSigningAlgValues: [options.alg] },
    findAccount: (_, id) => ({ accountId: id, claims: () => claimsOf(id) }),
    extraTokenClaims: (_, token) => options.users[token.accountId],
    issueRefreshToken: (_, found) => found.grantTypeAllowed('refresh_token'),
    rotateRefreshToken: true,
    ttl: {
      AccessToken: options.accessTokenSecs,
      IdToken: options.accessTokenSecs,
      DeviceCode: options.deviceSecs,
      RefreshToken: 3600,
      Grant: 3600,
      Session: 3600,
      Interaction: 600,
    },
    interactions: { url: (_, interaction) => `/interaction/${interaction.uid}` },
    features: {
      devInteractions: { enabled: false },
      revocation: { enabled: true, allowedPolicy: () => true },
      deviceFlow: { enabled: true },
      userinfo: { enabled: false },
      resourceIndicators: {
        enabled: true,
        // Of the client `dbward-jwt` access tokens are JWTs, of the other one opaque.
        defaultResource: (_, found) => (found.clientId === 'dbward-jwt' ? 'urn:dbward' : undefined),
        useGrantedResource: () => true,
        getResourceServerInfo: () => ({
          scope: 'openid profile email groups offline_access',
          audience: 'dbward-jwt',
          accessTokenFormat: 'jwt',
          accessTokenTTL: options.accessTokenSecs,
          jwt: { sign: { alg: options.alg } },
        }),
      },
    },
  });
}

let keys = [newKey()];
let provider = open(keys);
let answer = provider.callback();

async function interact(req, res) {
  const user = req.headers['x-user'] ?? '';
  const found = await provider.interactionDetails(req, res);
  const { prompt, params, session } = found;
  let result;
  if (user === 'refuser') {
    result = { error: 'access_denied', error_description: 'the person said no' };
  } else if (prompt.name === 'login') {
    result = { login: { accountId: user } };
  } else {
    const grant = new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
    grant.addOIDCScope('openid profile email groups offline_access');
    grant.addResourceScope('urn:dbward', 'openid profile email groups offline_access');
    result = { consent: { grantId: await grant.save() } };
  }
  await provider.interactionFinished(req, res, result, { mergeWithLastSubmission: true });
}

createServer((req, res) => {
  const fail = (e) => {
    console.error(e);
    res.statusCode = 500;
    res.end(String(e));
  };
  if (req.url.startsWith('/interaction/')) {
    interact(req, res).catch(fail);
  } else if (req.method === 'POST' && req.url === '/test/rotate') {
    keys = [newKey()];
    provider = open(keys);
    answer = provider.callback();
    res.end(keys[0].kid);
  } else {
    answer(req, res);
  }
}).listen(options.port, '127.0.0.1', () => console.log(`listening on ${issuer}`));
