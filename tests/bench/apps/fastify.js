const app = require('fastify')();

app.get('/', async () => `${process.pid}\n`);
app.get('/slow', async () => {
  await new Promise((resolve) => setTimeout(resolve, 1200));
  return `${process.pid}\n`;
});
app.listen({ port: Number(process.env.PORT), host: '127.0.0.1' });
