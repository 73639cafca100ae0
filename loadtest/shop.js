// One customer: signs up once, browses, and in one visit of ten places an order and reads it back.

import { check, fail, sleep } from 'k6';
import exec from 'k6/execution';
import http from 'k6/http';

const API = __ENV.API || 'http://127.0.0.1:8080';
const PASSWORD = 'drifting-kelp-27';
// Access tokens are good for ten minutes.
const TOKEN_LIFE_MS = 9 * 60 * 1000;
const RUN = `${Date.now()}`;

// Of this virtual user, which k6 gives a copy of the module of its own.
let customer = null;

// Browses once. `products` are ids from `catalogue`.
export function visit(products) {
  const headers = signedIn();
  get('/v1/products?limit=20', '/v1/products', headers);
  for (let looked = 0; looked < 3; looked += 1) {
    get(`/v1/products/${pick(products)}`, '/v1/products/{id}', headers);
  }
  if (Math.random() < 0.1) {
    order(products, headers);
  }
  sleep(0.5 + Math.random());
}

// The ids of the newest products: few enough to be asked for often, as in a shop.
export function catalogue() {
  const answer = http.get(`${API}/v1/products?limit=100`, { headers: address(0) });
  const products = answer.status === 200 ? answer.json('data').map((product) => product.id) : [];
  if (products.length === 0) {
    fail(`no products at ${API}: ${answer.status} ${answer.error}`);
  }
  return products;
}

function order(products, headers) {
  const body = JSON.stringify({ items: [{ product_id: pick(products), quantity: 1 }] });
  const key = `${RUN}-${exec.vu.idInTest}-${exec.vu.iterationInScenario}`;
  const placed = http.post(`${API}/v1/orders`, body, {
    headers: { ...headers, 'Content-Type': 'application/json', 'Idempotency-Key': key },
    tags: { name: 'POST /v1/orders', kind: 'shop' },
    // Sold out is an answer, not a fault.
    responseCallback: http.expectedStatuses(201, 409),
  });
  check(placed, { 'an order is placed, or sold out': (answer) => [201, 409].includes(answer.status) });
  if (placed.status === 201) {
    // One's own write, at once, from whichever replica.
    get(`/v1/orders/${placed.json('id')}`, '/v1/orders/{id}', headers);
  }
}

function get(path, name, headers) {
  const answer = http.get(`${API}${path}`, { headers, tags: { name: `GET ${name}`, kind: 'shop' } });
  check(answer, { 'it is there': ({ status }) => status === 200 });
}

function signedIn() {
  if (customer === null || Date.now() > customer.until) {
    customer = customer === null ? signUp() : signIn(customer.email);
  }
  return { Authorization: `Bearer ${customer.token}`, ...address(exec.vu.idInTest) };
}

function signUp() {
  const email = `load-${RUN}-${exec.vu.idInTest}@shoal.test`;
  const answer = credentials('/v1/auth/register', { email, password: PASSWORD, name: 'Load' });
  return { email, token: answer, until: Date.now() + TOKEN_LIFE_MS };
}

function signIn(email) {
  const token = credentials('/v1/auth/login', { email, password: PASSWORD });
  return { email, token, until: Date.now() + TOKEN_LIFE_MS };
}

// Hashing a password takes long on purpose: the thresholds are for the requests of the shop, and who is told to come
// back later does.
function credentials(path, body) {
  let answer;
  for (let attempt = 0; attempt < 30; attempt += 1) {
    answer = http.post(`${API}${path}`, JSON.stringify(body), {
      headers: { 'Content-Type': 'application/json', ...address(exec.vu.idInTest) },
      tags: { name: `POST ${path}`, kind: 'credentials' },
    });
    if (answer.status !== 503) {
      break;
    }
    sleep(Number(answer.headers['Retry-After']) || 1);
  }
  const token = answer.status < 300 ? answer.json('access_token') : null;
  if (!token) {
    fail(`${path} answered ${answer.status}: ${answer.body}`);
  }
  return token;
}

// Believed from a proxy that TRUSTED_PROXIES lists, as loopback is in the lab: limits are per address.
function address(number) {
  return { 'X-Forwarded-For': `198.18.${(number >> 8) & 255}.${number & 255}` };
}

function pick(products) {
  return products[Math.floor(Math.random() * products.length)];
}
