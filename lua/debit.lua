-- debit: hold and settle in one step.
--
-- KEYS as in prelude.lua
-- ARGV[1] epoch        integer  see prelude.lua
-- ARGV[2] id           text     the caller's id of the debit
-- ARGV[3] fingerprint  text     of the request, to tell a repeat from another request
-- ARGV[4] amount       integer  microcredits, 0 .. 2^53-1
-- ARGV[5] detail       text     JSON that goes into the usage event
-- ARGV[6] degraded     0 or 1   it was granted while Redis was away: nothing refuses it any more
--
-- Returns {status, ...}, the first status that applies:
--   debited       replayed 1: the same debit was made before; its first answer; nothing changed
--   conflict      the id was used for another request; nothing changed
--   suspended     reason; the account may not spend; nothing changed
--   closed        reason; the account may not spend; nothing changed
--   insufficient  available, overdraft; amount > available + overdraft; nothing changed
--   out_of_range  degraded only: available would pass -(2^53-1); nothing changed
--   debited       replayed 0, charged, available

local id, fingerprint, detail = ARGV[2], ARGV[3], ARGV[5]
local amount, degraded = tonumber(ARGV[4]), ARGV[6] == '1'

local refusal = begin()
if refusal then
  return refusal
end
local known = find(id)
if known then
  if known[KIND] ~= 'debit' or known[FINGERPRINT] ~= fingerprint then
    return finish({ 'conflict' })
  end
  journal = { known[ANSWER][3] }
  return finish({ 'debited', 1, known[ANSWER][1], known[ANSWER][2] })
end
if not degraded and not may_spend() then
  return finish(spending_refused())
end
if not degraded and amount - account.overdraft > account.available then
  return finish({ 'insufficient', account.available, account.overdraft })
end
if account.available - amount < -MAX_AMOUNT then
  return finish({ 'out_of_range' })
end

local charged = burn(amount)
event('debit', id, amount, amount, degraded and 6 or 4, charged, '', detail)
local answer = { amount, account.available, journal[1] }
remember(id, { 'debit', 'debited', fingerprint, answer, amount, 0, charged, '' })
return finish({ 'debited', 0, amount, account.available })
