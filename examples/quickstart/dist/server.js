// Answers with its pid. Each instance has a port of its own: PORT, PORT + 1, …
const http = require('http')

const port = Number(process.env.PORT) + Number(process.env.OXMGR_INSTANCE_ID || 0)
const server = http.createServer((request, response) => response.end(`${process.pid}\n`))

server.listen(port, '127.0.0.1', () => {
  console.log(`pid ${process.pid} listens on http://127.0.0.1:${port}, ${Math.round(process.uptime() * 1000)} ms after its start`)
})
process.on('SIGTERM', () => server.close(() => process.exit(0)))
