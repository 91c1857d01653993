-- refund: give back all or part of a settled hold or a debit, to the grants it came from.
--
-- KEYS as in prelude.lua
-- ARGV[1] epoch        integer  see prelude.lua
-- ARGV[2] id           text     the caller's id of the refund
-- ARGV[3] fingerprint  text     of the request without its amount, to tell a repeat from another
-- ARGV[4] of           text     the id of the hold or debit
-- ARGV[5] amount       integer  microcredits, 1 .. 2^53-1; 0 for all that is left
-- ARGV[6] detail       text     JSON that goes into the usage event
--
-- Returns {status, ...}, the first status that applies:
--   refunded        replayed 1: the same refund was made before; its first answer; nothing changed
--   conflict        the id was used for another request; nothing changed
--   hold_not_found  `of` is no hold or debit; nothing changed
--   hold_open       the hold still runs; nothing changed
--   refund_exceeds  refundable; amount is more, or nothing is left; nothing changed
--   refunded        replayed 0, refunded, available

local id, fingerprint, of, detail = ARGV[2], ARGV[3], ARGV[4], ARGV[6]
local amount = tonumber(ARGV[5])

local refusal = begin()
if refusal then
  return refusal
end
local known = find(id)
if known then
  -- All that was left, written out or not, is the same request.
  local refunded, available, was_left, stream_id = unpack(known[ANSWER])
  local is_same = (amount == 0 and was_left or amount) == refunded
  if known[KIND] ~= 'refund' or known[FINGERPRINT] ~= fingerprint or not is_same then
    return finish({ 'conflict' })
  end
  journal = { stream_id }
  return finish({ 'refunded', 1, refunded, available })
end
local charge = find(of)
if not charge or charge[KIND] == 'refund' then
  return finish({ 'hold_not_found' })
end
if charge[STATE] == 'held' then
  return finish({ 'hold_open' })
end
local left = charge[CHARGED] - charge[REFUNDED]
if amount == 0 then
  amount = left
end
if amount > left or left == 0 then
  return finish({ 'refund_exceeds', left })
end

-- What was burnt last comes back first.
local back, lacking = {}, amount
for i = #charge[CHARGES] - 1, 1, -2 do
  local part = math.min(lacking, charge[CHARGES][i + 1])
  if part > 0 then
    push(back, charge[CHARGES][i], part)
    lacking = lacking - part
  end
end
local negative = {}
for i = 1, #back, 2 do
  push(negative, back[i], -back[i + 1])
end
event('refund', id, -amount, amount, 4, negative, charge[CONTEXT], detail)
give(back)
cover()
charge[REFUNDED] = charge[REFUNDED] + amount
charge[CHARGES] = merged(charge[CHARGES], negative)
remember(of, charge, true)
local answer = { amount, account.available, left, journal[1] }
remember(id, { 'refund', 'refunded', fingerprint, answer, 0, 0, {}, '' })
return finish({ 'refunded', 0, amount, account.available })
