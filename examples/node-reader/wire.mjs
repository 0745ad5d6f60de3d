// The bytes of the wire, as docs/wire-protocol.md specifies them: MessagePack, batches, events and journal records.
// Sequence numbers have 64 bits, more than a JavaScript number holds, so they are BigInts.
import { crc32 } from 'node:zlib'
import { Decoder, encode } from '@msgpack/msgpack'

const [VERSION, HEAD_BYTES, MAX_HEADER_BYTES, MAX_BODY_BYTES] = [1, 20, 16_384, 67_108_864]

// The decoder refuses the key `__proto__`, since assigning to it changes an object's prototype. It is kept under
// another name, and so is any key that begins like that name; `toJson` restores both.
function decodeKey(bytes, start, length) {
  const key = Buffer.from(bytes.buffer, bytes.byteOffset + start, length).toString()
  return key === '__proto__' || key.startsWith('\0') ? `\0${key}` : key
}
const decoding = { useBigInt64: true, keyDecoder: { canBeCached: () => true, decode: decodeKey } }

export const pack = (value) => encode(value, { useBigInt64: true })
export function unpack(bytes) {
  try {
    return new Decoder(decoding).decode(bytes)
  } catch {
    return undefined // not MessagePack
  }
}

const isNumber = (value) => typeof value === 'number' || typeof value === 'bigint'
const isInteger = (value) => typeof value === 'bigint' || Number.isInteger(value)
const isMap = (value) => value != null && Object.getPrototypeOf(value) === Object.prototype

// Returns a batch or heartbeat, or null if it is malformed. Throws if a newer major version wrote it.
export function decodeBatch(headerBytes, body) {
  const fields = unpack(headerBytes)
  if (!isMap(fields) || !isMap(fields.before) || !isInteger(fields.version)) return null
  if (fields.version > VERSION) throw new Error(`written by version ${fields.version} of the wire: update this reader`)
  const { run, rank, attempt, channel, seq, count, before, last, unjournaled } = fields
  if (![rank, attempt, seq, count, ...Object.values(before)].every(isInteger)) return null
  return {
    run, channel, before, body, rank: Number(rank), attempt: Number(attempt), count: Number(count),
    end: BigInt(seq) + BigInt(count) - 1n, // seq of its last event; of a heartbeat, of the last event of all channels
    isLast: last === true, isUnjournaled: unjournaled === true,
  }
}

// Returns the events of a batch that are valid, as far as they are checked here: [name, value, type, walltime, step].
export function decodeEvents({ body, count }) {
  const items = unpack(body)
  return Array.isArray(items) && items.length === count ? items.filter(isEvent) : []
}

function isEvent(item) {
  const [name, value, type, walltime, step] = Array.isArray(item) ? item : []
  if (typeof name !== 'string' || name === '' || typeof type !== 'string' || !isInteger(step)) return false
  return isNumber(walltime) && Number.isFinite(Number(walltime)) && (type !== 'scalar' || isNumber(value))
}

// Returns the batches in a part of a journal, the bytes that were read, and how many of these were damaged. Unless
// `isFinal`, an incomplete record at the end is left unread.
export function scanRecords(data, isFinal) {
  const found = { batches: [], read: 0, damaged: 0 }
  while (found.read < data.length) {
    const record = decodeRecord(data.subarray(found.read))
    if (record === 'incomplete' && !isFinal) break
    if (record?.batch) found.batches.push(record.batch)
    let next = record?.batch ? found.read + record.length : data.indexOf('TWJ1', found.read + 1)
    if (next < 0) next = isFinal ? data.length : Math.max(found.read + 1, data.length - 3) // it may end within a marker
    if (!record?.batch) found.damaged += next - found.read
    found.read = next
  }
  return found
}

function decodeRecord(data) {
  if (!data.toString('latin1', 0, 4).startsWith('TWJ1'.slice(0, data.length))) return null
  if (data.length < HEAD_BYTES) return 'incomplete'
  const [headerBytes, bodyBytes, checksum, headChecksum] = [4, 8, 12, 16].map((field) => data.readUInt32LE(field))
  if (crc32(data.subarray(0, 16)) !== headChecksum) return null
  if (headerBytes > MAX_HEADER_BYTES || bodyBytes > MAX_BODY_BYTES) return null
  const [middle, length] = [HEAD_BYTES + headerBytes, HEAD_BYTES + headerBytes + bodyBytes]
  if (data.length < length) return 'incomplete'
  if (crc32(data.subarray(HEAD_BYTES, length)) !== checksum) return null
  return { batch: decodeBatch(data.subarray(HEAD_BYTES, middle), data.subarray(middle, length)), length }
}

// Returns a value as JSON, in the forms of `trainwire export`.
export function toJson(value) {
  if (typeof value === 'bigint') return `${value}`
  if (typeof value === 'number' && !Number.isFinite(value)) return `"${value}"`.toLowerCase().replace('infinity', 'inf')
  if (typeof value === 'number' && Math.abs(value) > 0xffffffff) return value.toExponential() // or it were a BigInt
  if (value instanceof Uint8Array) return `"${Buffer.from(value).toString('base64')}"`
  if (Array.isArray(value)) return `[${value.map(toJson).join(', ')}]`
  if (!isMap(value)) return JSON.stringify(value)
  const name = (key) => JSON.stringify(key.startsWith('\0') ? key.slice(1) : key)
  return `{${Object.entries(value).map(([key, item]) => `${name(key)}: ${toJson(item)}`).join(', ')}}`
}
