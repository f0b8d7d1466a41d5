// As a first tutorial of Node has it: nothing about signals, nothing about oxmgr.
const http = require('http');

http
  .createServer((request, response) => {
    const answer = () => response.end(`${process.pid}\n`);
    if (request.url === '/slow') setTimeout(answer, 1200);
    else answer();
  })
  .listen(process.env.PORT);
