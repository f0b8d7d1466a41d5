const app = require('express')();

app.get('/', (request, response) => response.send(`${process.pid}\n`));
app.get('/slow', (request, response) => setTimeout(() => response.send(`${process.pid}\n`), 1200));
app.listen(process.env.PORT);
