#!/usr/bin/env node
// Follows a run to its end, and prints each event as the line of JSON that `trainwire export --format jsonl` prints.
import fs from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { Subscriber } from 'zeromq'
import { Fetch, JournalFiles, curve, readConnection } from './history.mjs'
import { decodeBatch, decodeEvents, toJson } from './wire.mjs'

const text = (value) => ({ type: 'string', default: value })
const known = { fetch: { type: 'boolean' }, channels: text('event,media'), rank: text('0'), queue: text('1000') }
const { values: options, positionals: [target] } = parseArgs({ allowPositionals: true, options: known })
const channels = options.channels.split(',')
const isFolder = !fs.existsSync(target) || fs.statSync(target).isDirectory() // otherwise it is a connection file
const file = isFolder ? `${target}/connection-rank${options.rank}.json` : target
const publisher = new Fetch(file, channels)
const history = isFolder && !options.fetch ? new JournalFiles(target, options.rank) : publisher
const quietMs = history === publisher ? 3000 : 500 // asking the publisher costs it time
let [cursor, gaps, acknowledgeAt, live, liveAttempt] = [{ attempt: -1, seq: -1n }, 0, 0]

let attempts = await history.attempts()
for (; attempts.size === 0; attempts = await history.attempts()) await sleep(100) // the run has not begun
const kept = keptRanges(attempts)
for (let later = [...attempts.keys()]; later.length > 0; ) {
  cursor = { attempt: Math.min(...later), seq: -1n }
  while (!(await readToEnd())); // until the attempt is over
  await acknowledge(true)
  attempts = await history.attempts().catch(() => new Map()) // after its last event, the publisher may be gone
  later = [...attempts.keys()].filter((attempt) => attempt > cursor.attempt)
}
live?.close()
publisher.dealer?.close()
process.exitCode = gaps > 0 ? 3 : 0

// Reads the history, then live until something is missing or nothing comes; returns whether the attempt is over.
async function readToEnd() {
  try {
    const isOver = await history.isOver(cursor.attempt) // asked first: what is read then is everything
    await acknowledge() // already before the first event: a publisher that ends waits only for readers it knows
    for await (const batch of history.read(cursor, isOver)) take(batch) && (await acknowledge())
    if (history.ended && history.head > cursor.seq) cursor.seq = history.head
    if (isOver && !history.ended) console.error(`attempt ${cursor.attempt} has no end: its process was killed`)
    return isOver || history.ended || (await listen())
  } catch (error) {
    if (error.code !== 'EAGAIN') throw error // there was no reply in time: ask again
    return false
  }
}

// Takes live batches; returns true after the attempt's last one, false if one is missing or none came for a while.
async function listen() {
  const connection = readConnection(file)
  if (connection?.attempt !== cursor.attempt) return sleep(100, false)
  if (liveAttempt !== cursor.attempt) {
    live?.close()
    live = new Subscriber({ receiveHighWaterMark: +options.queue, receiveTimeout: 500, ...curve(connection) })
    live.subscribe(...[...channels, 'heartbeat'].map((channel) => topic({ ...connection, channel })))
    live.connect(connection.publish)
    liveAttempt = cursor.attempt
    await acknowledge(true)
  }
  for (let taken = Date.now(); Date.now() - taken < quietMs; await acknowledge()) {
    const frames = await live.receive().catch((error) => (error.code === 'EAGAIN' ? [] : Promise.reject(error)))
    const batch = frames.length === 3 ? decodeBatch(frames[1], frames[2]) : null
    if (batch === null || topic(batch) !== frames[0].toString()) continue
    if (batch.attempt < cursor.attempt || batch.isUnjournaled) continue
    if (batch.attempt > cursor.attempt || isAhead(batch)) return false
    if (take(batch)) taken = Date.now()
    if (batch.isLast) cursor.seq = batch.end // of a heartbeat: the last batch is on a channel that is not read
    if (batch.isLast) return true
  }
  return false
}

function take(batch) {
  if (!channels.includes(batch.channel) || batch.end <= cursor.seq) return false
  if (isAhead(batch)) console.error(`events after seq ${cursor.seq} are missing`, ++gaps)
  cursor.seq = batch.end
  for (const [name, value, type, walltime, step] of batch.end > kept.get(batch.attempt) ? [] : decodeEvents(batch)) {
    process.stdout.write(`${toJson({ name, value, type, walltime, step, rank: batch.rank })}\n`)
  }
  return true
}

// Returns whether something is missing between the cursor and a batch or heartbeat of the same attempt.
function isAhead({ before }) {
  return channels.some((channel) => (before[channel] ?? -1) > cursor.seq)
}

function topic({ channel, run, rank }) {
  return `tw1/${channel}/${run}/${rank}/`
}

async function acknowledge(isDue = Date.now() >= acknowledgeAt) {
  if (!isDue) return
  acknowledgeAt = Date.now() + 10_000
  await publisher.request('ack', { sink: 'node-reader', ...cursor }).catch(() => {}) // nobody waits for it then
}

// Returns, for each attempt, the seq of its last event that no later attempt supersedes.
function keptRanges(resumed) {
  const ranges = new Map()
  let limit = { attempt: Infinity }
  for (const [attempt, from] of [...resumed].sort(([a], [b]) => b - a)) {
    ranges.set(attempt, attempt > limit.attempt ? -1n : attempt < limit.attempt ? Infinity : limit.seq)
    if (attempt <= limit.attempt) limit = from ?? limit
  }
  return ranges
}
