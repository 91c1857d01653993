-- settle: charge what a call has used, in all so far; a final settle frees the rest of the hold.
--
-- KEYS as in prelude.lua
-- ARGV[1] epoch          integer  see prelude.lua
-- ARGV[2] id             text     the hold's id
-- ARGV[3] fingerprint    text     of the request, to tell a repeat from another request
-- ARGV[4] total          integer  microcredits charged for the hold so far, 0 .. 2^53-1
-- ARGV[5] final          0 or 1   whether the hold ends
-- ARGV[6] price_version  text     the price book that priced it; empty when the caller gave an amount
-- ARGV[7] detail         text     JSON that goes into the usage event
-- ARGV[8] lost           msgpack  the hold's record, as a sidecar kept it; used when there is none here
-- ARGV[9] degraded       0 or 1   it was accepted while Redis was away
--
-- Returns {status, ...}, the first status that applies:
--   hold_not_found  no hold of this id; nothing changed
--   conflict        the id is a debit's or refund's; nothing changed
--   settled         replayed 1: the hold's latest settle again; its answer; nothing changed
--   held            replayed 1: the same of a settle that was not final
--   hold_settled    it has ended; nothing changed
--   hold_released   it has ended; nothing changed
--   reprice         price_version; the hold was priced by that one; nothing changed
--   lowered         charged; total is below what was charged already; nothing changed
--   out_of_range    available would pass -(2^53-1); nothing changed
--   settled         replayed 0, charged, released, available, late
--   held            replayed 0, the same; not final: the rest stays held

local id, fingerprint, price_version, detail = ARGV[2], ARGV[3], ARGV[6], ARGV[7]
local total, final = tonumber(ARGV[4]), ARGV[5] == '1'
local lost, degraded = ARGV[8], ARGV[9] == '1'

local refusal = begin()
if refusal then
  return refusal
end
local hold = find(id)
local is_lost = not hold and lost ~= ''
if is_lost then
  hold = cmsgpack.unpack(lost)
end
if not hold then
  return finish({ 'hold_not_found' })
end
if hold[KIND] ~= 'hold' then
  return finish({ 'conflict' })
end
if hold[LAST] == fingerprint then
  local last = hold[LAST_ANSWER]
  journal = { last[6] }
  return finish({ last[5], 1, last[1], last[2], last[3], last[4] })
end
if hold[STATE] == 'settled' or hold[STATE] == 'released' then
  return finish({ 'hold_' .. hold[STATE] })
end
if price_version ~= '' and hold[PRICE_VERSION] ~= '' and price_version ~= hold[PRICE_VERSION] then
  return finish({ 'reprice', hold[PRICE_VERSION] })
end
if total < hold[CHARGED] then
  return finish({ 'lowered', hold[CHARGED] })
end
local lacking = total - hold[CHARGED]
if account.available - lacking < -MAX_AMOUNT then
  return finish({ 'out_of_range' })
end

-- What the hold took from grants is charged first; what it took from the overdraft is given back
-- and charged anew, since credits may have come meanwhile.
-- Credits that are not set aside any more are charged late. That ends a hold that has expired; one
-- whose generation was lost lives on, with nothing set aside, until it expires.
local delta, late = lacking, hold[STATE] ~= 'held'
local ends = final or hold[STATE] == 'expired' or now_ms >= hold[EXPIRES]
local charged, rest = {}, {}
for i = 1, #hold[HELD], 2 do
  local grant_no, amount = hold[HELD][i], hold[HELD][i + 1]
  local part = grant_no ~= 0 and math.min(lacking, amount) or 0
  if part > 0 then
    push(charged, grant_no, part)
    lacking = lacking - part
  end
  if amount > part then
    push(rest, grant_no, amount - part)
  end
end
account.held = account.held - total_of(charged)
if lacking > 0 then
  local overdrawn = math.min(lacking, pool_part(rest))
  give_held({ 0, overdrawn })
  rest = merged(rest, { 0, -overdrawn })
  charged = merged(charged, burn(lacking))
end

hold[CHARGED], hold[CHARGES] = total, merged(hold[CHARGES], charged)
local flags = (late and 1 or 0) + (degraded and 2 or 0) + (ends and 4 or 0)
event('settle', id, delta, total, flags, charged, hold[CONTEXT], detail)
local state, released = 'held', 0
if ends then
  state, released = 'settled', total_of(rest)
  give_held(rest)
end
cover()
hold[LAST] = fingerprint
hold[LAST_ANSWER] = { total, released, account.available, late and 1 or 0, state, journal[1] }
if state == 'settled' then
  close_hold(id, hold, state)
else
  hold[HELD] = rest
  if is_lost then
    hold[STATE], hold[AMOUNT] = 'held', total
    schedule('h:' .. id, hold[EXPIRES])
  end
  call('HSET', holds_key, id, cmsgpack.pack(hold))
end
return finish({ state, 0, total, released, account.available, late and 1 or 0 })
