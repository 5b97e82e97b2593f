// The conformance server of docs/conformance.md.

import { bootstrap, Link } from './link.mjs'

const link = new Link(await bootstrap())
let open = false

link.on('snapshot', () => {
  if (!open) link.call('ConnectPlayers').catch(report)
  open = true
})

link.on('event', (event) => {
  const data = event.gameDataUpdated?.gameData?.json
  if (data?.end) {
    link.call('EndGameInstance', { result: { json: {} } }).then(() => link.leave(), report)
  } else if (data) {
    link.call('UpdateGameData', { gameData: { json: { seen: data.value ?? null } } }).catch(report)
  }
  if (event.terminated) link.leave()
})

link.on('over', (reason) => { process.exitCode = reason === 'left' ? 0 : 1 })

function report(err) { console.error(err.message) }

link.connect()
