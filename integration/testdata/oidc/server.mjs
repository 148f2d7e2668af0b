// An OpenID provider for tests: panva's oidc-provider, with one public client
// (authorization code with PKCE, refresh with rotation, device flow) and pages
// made of two buttons, #allow and #deny.
//
// It is driven over its standard streams, one JSON object a line. The first line
// in is its configuration; the first line out says {"ready":true,"port":N}. Each
// further line in is a command and is answered by one line out:
//
//   {"skew":SECONDS}         its clock is off by so much from now on
//   {"listen":true|false}    the port is closed, with every connection, or opened again
//   {"slowDown":N}           the next N polls for a device code are told to slow down
//   {"auto":""|"allow"|"deny"}  who is asked answers by itself
//   {"stats":true}           what has happened so far
//
// It ends when its input does.
import { createServer } from 'node:http';
import { createInterface } from 'node:readline';

let skew = 0;
const now = Date.now;
Date.now = () => now() + skew * 1000;

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const say = (answer) => process.stdout.write(`${JSON.stringify(answer)}\n`);
const config = JSON.parse((await lines.next()).value);
let auto = config.auto ?? '';
let slowDown = 0;
const stats = {};
const count = (what) => { stats[what] = (stats[what] ?? 0) + 1; };

// The runtime's and the library's advice is not for the test that reads this.
console.info = console.warn = () => {};
const { Provider } = await import('oidc-provider');

const page = (body) => `<!doctype html><meta charset="utf-8"><title>Example provider</title>${body}`;
const buttons = (action, hidden) => page(`<h1>Let Towline use ${config.email}?</h1><form method="post" action="${action}">${hidden}
<button id="allow" name="decision" value="allow">Allow</button> <button id="deny" name="decision" value="deny">Deny</button></form>`);

const server = createServer();
await new Promise((done) => { server.listen(config.port ?? 0, config.addr ?? '127.0.0.1', done); });
const { port, address } = server.address();
const issuer = config.issuer ?? `http://${address}:${port}`;

const provider = new Provider(issuer, {
  clients: [{
    client_id: config.client, token_endpoint_auth_method: 'none', application_type: 'native',
    redirect_uris: ['http://127.0.0.1:1455/auth/callback', 'http://localhost:1455/auth/callback',
      'http://127.0.0.1:1457/auth/callback', 'http://localhost:1457/auth/callback'],
    grant_types: ['authorization_code', 'refresh_token', 'urn:ietf:params:oauth:grant-type:device_code'],
    response_types: ['code'],
  }],
  scopes: ['openid', 'offline_access', 'profile', 'email'],
  claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['name'] },
  conformIdTokenClaims: false, // the email is in the id token
  findAccount: (_, sub) => ({
    accountId: sub,
    claims: () => ({ sub, email: config.email, email_verified: true, name: 'Grace Example' }),
  }),
  issueRefreshToken: () => true,
  rotateRefreshToken: () => true,
  pkce: { required: () => true },
  cookies: { keys: ['only for tests'] },
  ttl: {
    AccessToken: config.accessTTL ?? 3600, AuthorizationCode: config.codeTTL ?? 60, DeviceCode: config.deviceTTL ?? 600,
    IdToken: 3600, RefreshToken: 86400, Grant: 86400, // a browser with another clock keeps its cookies
    Interaction: 86400, Session: 86400,
  },
  interactions: { url: (_, interaction) => `/interaction/${interaction.uid}` },
  features: {
    devInteractions: { enabled: false },
    revocation: { enabled: true },
    deviceFlow: {
      enabled: true,
      userCodeInputSource: (ctx, form, _, err) => {
        ctx.body = page(`${err ? `<p id="error">${err.name === 'AbortedError' ? 'You said no.' : 'This code is not known.'}</p>` : ''}${form}<button id="next" form="op.deviceInputForm">Next</button>`);
      },
      userCodeConfirmSource: (ctx, form, _client, _device, code) => {
        ctx.body = page(`<h1>${code}</h1>${form}<button id="confirm" form="op.deviceConfirmForm">This is my code</button>
<button id="abort" name="abort" value="yes" form="op.deviceConfirmForm">It is not</button>`);
      },
      successSource: (ctx) => { ctx.body = page('<p id="done">You may close this page.</p>'); },
    },
  },
});
provider.proxy = true;
for (const event of ['grant.success', 'grant.error', 'grant.revoked', 'authorization.error', 'server_error']) {
  provider.on(event, (ctx) => count(ctx?.oidc?.params?.grant_type ? `${event} ${ctx.oidc.params.grant_type}` : event));
}

const decide = async (ctx, allowed) => {
  const { prompt, params, grantId, session } = await provider.interactionDetails(ctx.req, ctx.res);
  if (!allowed) {
    return provider.interactionFinished(ctx.req, ctx.res, { error: 'access_denied', error_description: 'the person said no' });
  }
  const accountId = session?.accountId ?? config.subject;
  let grant = grantId && await provider.Grant.find(grantId);
  grant ??= new provider.Grant({ accountId, clientId: params.client_id });
  grant.addOIDCScope(params.scope);
  return provider.interactionFinished(ctx.req, ctx.res, { login: { accountId: config.subject }, consent: { grantId: await grant.save() } }, { mergeWithLastSubmission: false });
};

// A client may poll every config.interval seconds; RFC 8628 wants it told, and
// told off when it does not wait.
const polls = new Map();
provider.use(async (ctx, next) => {
  const [, uid] = /^\/interaction\/([\w-]+)$/.exec(ctx.path) ?? [];
  if (uid && ctx.method === 'GET' && auto === '') {
    ctx.body = buttons(ctx.path, '');
    return;
  }
  if (uid) {
    const raw = [];
    for await (const chunk of ctx.req) raw.push(chunk);
    const choice = auto || new URLSearchParams(Buffer.concat(raw).toString()).get('decision');
    await decide(ctx, choice === 'allow');
    ctx.respond = false;
    return;
  }
  await next();
  if (ctx.path === '/device/auth' && ctx.status === 200) {
    ctx.body.interval = config.interval ?? 1;
  }
  const code = ctx.path === '/token' && ctx.oidc?.params?.device_code;
  if (!code) return;
  count('polls');
  const poll = polls.get(code) ?? { interval: config.interval ?? 1, at: 0 };
  polls.set(code, poll);
  const early = now() - poll.at < poll.interval * 1000 - 50;
  poll.at = now();
  if (early && ctx.body?.error === 'authorization_pending') count('polled early');
  if (ctx.body?.error === 'authorization_pending' && (slowDown > 0 || early)) {
    slowDown = Math.max(0, slowDown - 1);
    poll.interval += 5;
    count('told to slow down');
    ctx.body = { error: 'slow_down', error_description: 'too often' };
  }
});

server.on('request', provider.callback());
say({ ready: true, port });

const commands = {
  skew: (seconds) => { skew = seconds; },
  slowDown: (n) => { slowDown = n; },
  auto: (choice) => { auto = choice; },
  stats: () => stats,
  listen: async (on) => {
    if (on) {
      await new Promise((done, fail) => { server.once('error', fail); server.listen(port, address, done); });
      return;
    }
    const closed = new Promise((done) => { server.close(done); });
    server.closeAllConnections();
    await closed;
  },
};
for await (const line of lines) {
  const answers = {};
  for (const [name, value] of Object.entries(JSON.parse(line))) {
    answers[name] = (await commands[name](value)) ?? true;
  }
  say(answers);
}
process.exit(0);
