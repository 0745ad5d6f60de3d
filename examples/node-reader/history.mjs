// The two sources of history: the journal's files, and the publisher's replies to `fetch`. Each has `attempts()`, a map
// of attempt to the position it resumed from; `isOver(attempt)`; `read(cursor, isOver)`, the batches after a cursor;
// then `ended`, whether the attempt's last event was passed, and `head`, the seq up to which everything was read.
import fs from 'node:fs'
import os from 'node:os'
import { Dealer } from 'zeromq'
import { decodeEvents, pack, scanRecords, unpack } from './wire.mjs'

const [CREDIT, REPLY_MS] = [1 << 20, 5000]
const readJson = (file) => (fs.existsSync(file) ? JSON.parse(fs.readFileSync(file)) : null)
const list = (folder, names) => (fs.existsSync(folder) ? fs.readdirSync(folder).filter((name) => names.test(name)) : [])

export const curve = ({ keys }) =>
  keys ? { curveServerKey: keys.server, curvePublicKey: keys.public, curveSecretKey: keys.secret } : {}

// Returns whether a process is known to be gone. One of another host, or of a system without procfs, never is.
function isGone({ host, pid, started }) {
  if (host !== os.hostname() || !fs.existsSync('/proc/self/stat')) return false
  if (!fs.existsSync(`/proc/${pid}/stat`)) return true
  const fields = fs.readFileSync(`/proc/${pid}/stat`, 'latin1').split(') ').at(-1).split(' ')
  const boot = fs.readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim()
  return 'ZX'.includes(fields[0]) || `${boot}:${fields[19]}` !== started
}

// Returns the content of a connection file, or null if it is absent or its publisher cannot be reached.
export function readConnection(file) {
  const connection = readJson(file)
  if (connection === null || isGone(connection.process)) return null
  const isHere = connection.process.host === os.hostname() && fs.existsSync(connection.request.replace('ipc://', ''))
  return isHere || connection.request.startsWith('tcp://') ? connection : null
}

export class JournalFiles {
  constructor(folder, rank) {
    this.folder = `${folder}/journal/rank-${rank}`
  }

  async attempts() {
    const numbers = list(this.folder, /^attempt-\d+$/).map((name) => Number(name.slice(8)))
    return new Map(numbers.map((number) => [number, this.#resumedFrom(number)]))
  }

  async isOver(attempt) {
    const lease = readJson(`${this.folder}/attempt-${attempt}/lease.json`)
    const isContinued = fs.existsSync(`${this.folder}/attempt-${attempt + 1}`)
    return isContinued || lease?.released === true || (lease !== null && lease.relay !== true && isGone(lease.process))
  }

  async *read({ attempt, seq }, isOver) {
    if (this.attempt !== attempt) Object.assign(this, { attempt, ended: false, head: -1n, place: null })
    for (;;) {
      const segments = this.#segments(attempt) // listed first: what another segment follows has its final size
      const first = segments.findLast((path) => BigInt(path.slice(-28, -8)) <= seq + 1n) ?? segments[0]
      if (first === undefined) return
      const place = (this.place ??= { segment: first, offset: 0, suspect: -1 })
      const next = segments[segments.indexOf(place.segment) + 1]
      const data = fs.readFileSync(place.segment)
      if (data.length < place.offset) place.offset = 0 // its end was removed: the cursor skips what is read again
      const { batches, read, damaged } = scanRecords(data.subarray(place.offset), isOver || next !== undefined)
      if (damaged > 0 && place.suspect !== place.offset) {
        place.suspect = place.offset // the writer may have been replacing these bytes: read them once more
        continue
      }
      if (damaged > 0) console.error(`${place.segment}: skipped ${damaged} bytes that are no record`)
      place.offset += read
      yield* batches
      this.ended ||= batches.some((batch) => batch.isLast)
      this.head = batches.at(-1)?.end ?? this.head
      if (next === undefined) return
      this.place = { segment: next, offset: 0, suspect: -1 }
    }
  }

  #segments(attempt) {
    const folder = `${this.folder}/attempt-${attempt}`
    return list(folder, /^\d{20}\.journal$/).sort().map((name) => `${folder}/${name}`)
  }

  #resumedFrom(attempt) {
    const records = this.#segments(attempt).slice(0, 1).map((path) => scanRecords(fs.readFileSync(path), true))
    const [[name, value, type] = []] = records.flatMap(({ batches }) => batches.slice(0, 1).flatMap(decodeEvents))
    return name === 'run/resumed' && type === 'lifecycle' ? (value.from ?? { attempt: -1, seq: -1 }) : null
  }
}

export class Fetch {
  #id = 0

  constructor(file, channels) {
    Object.assign(this, { file, channels })
  }

  async attempts() {
    return new Map((await this.request('hello')).attempts.map(({ attempt, from }) => [Number(attempt), from]))
  }

  async isOver(attempt) {
    const hello = await this.request('hello')
    return hello.attempt > attempt || (hello.attempt === attempt && hello.over === true)
  }

  async *read({ attempt, seq }) {
    if (this.attempt !== attempt) Object.assign(this, { attempt, head: -1n })
    for (let after = null; this.head !== after; ) {
      after = seq > this.head ? seq : this.head
      const reply = await this.request('fetch', { attempt, after, channels: this.channels, credit: CREDIT })
      yield* scanRecords(reply.frames[0], true).batches
      this.ended = reply.ended
      this.head = BigInt(reply.scanned_to) // beyond its last record, if events of other channels follow
    }
  }

  // Returns the first frame of a reply, with the others as `frames`. Throws if there is none, or it is an error.
  async request(verb, fields = {}) {
    const connection = readConnection(this.file) // each attempt has endpoints of its own
    if (connection === null) throw new Error('the publisher is gone; what is missing is in its journal')
    if (connection.request !== this.endpoint) {
      this.dealer?.close()
      this.dealer = new Dealer({ receiveTimeout: REPLY_MS, sendTimeout: REPLY_MS, linger: 0, ...curve(connection) })
      this.dealer.connect((this.endpoint = connection.request))
    }
    const id = ++this.#id
    await this.dealer.send(pack({ verb, id, ...fields }))
    for (;;) {
      const [first, ...frames] = await this.dealer.receive()
      const reply = { ...unpack(first), frames }
      if (reply.id === id && reply.error !== undefined) throw new Error(`the publisher refused ${verb}: ${reply.error}`)
      if (reply.id === id) return reply
    }
  }
}
