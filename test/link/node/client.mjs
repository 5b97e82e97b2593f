// A game server in Node: it writes down who is in the game, until a backend asks it to finish.
//
//   node client.mjs [--gateway URL] [--refresh-after SECONDS] [--snapshot]
//
// --gateway goes to another address than the bootstrap document's, such as a proxy's; --refresh-after refreshes the tokens so long after the start;
// --snapshot does not resume after a reconnect, but links again and takes the snapshot.

import { parseArgs } from 'node:util'
import { bootstrap, Link, say } from './link.mjs'

const { values: flags } = parseArgs({ options: { gateway: { type: 'string' }, 'refresh-after': { type: 'string' }, snapshot: { type: 'boolean' } } })
const doc = await bootstrap()
if (flags.gateway) doc.gateway = flags.gateway
const link = new Link(doc, { refreshAfter: flags['refresh-after'] && 1000 * Number(flags['refresh-after']), snapshot: flags.snapshot })
const players = new Set()
const offsets = []
let open = false

const record = () => link.call('UpdateGameData', { gameData: { json: { players: [...players] } } })

async function finish() {
  const result = { players: [...players].sort(), connections: link.opened, refreshed: link.refreshed, offsets }
  await link.call('EndGameInstance', { result: { json: result } })
  say('ended', { result })
  link.leave()
}

link.on('snapshot', (instance) => {
  players.clear()
  for (const p of instance.players ?? []) players.add(p.id)
  if (!open) link.call('ConnectPlayers').catch((err) => say('failed', { error: err.message }))
  open = true
  record().catch((err) => say('failed', { error: err.message }))
})

link.on('event', (event, offset) => {
  say('event', { offset, event: Object.keys(event)[0] })
  offsets.push(offset)
  for (const p of event.playersAdded?.players ?? []) players.add(p.id)
  for (const id of event.playersRemoved?.playerIds ?? []) players.delete(id)
  const todo = event.gameDataUpdated?.gameData?.json?.finish ? finish() : event.playersAdded || event.playersRemoved ? record() : null
  todo?.catch((err) => say('failed', { error: err.message }))
  if (event.terminated) link.leave()
})

link.on('over', (reason) => {
  say('over', { reason })
  process.exitCode = reason === 'left' ? 0 : 1
})

process.on('SIGTERM', () => { if (!link.isOver) link.leave() })

link.connect()
