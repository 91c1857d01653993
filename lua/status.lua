-- status: set an account's status, overdraft limit, allowance and mark, as a numbered refill.
--
-- KEYS as in prelude.lua
-- ARGV[1] epoch      integer  see prelude.lua
-- ARGV[2] gen        integer  the generation that the ledger lent to
-- ARGV[3] refill_no  integer  its number in the generation
-- ARGV[4] status     text     active, grace, suspended or closed
-- ARGV[5] overdraft  integer  microcredits that may be spent beyond what is available
-- ARGV[6] reason     text     why, for the one who is refused; may be missing
-- ARGV[7] allowance  integer  microcredits it may use while Redis is away; may be missing
-- ARGV[8] mark       integer  microcredits; with less it has run low; 0 for none; may be missing
--
-- Returns {status, ...}, the first status that applies:
--   stale     the account is of another generation; nothing changed
--   replayed  refill_no of the account; it has this one; nothing changed
--   gap       refill_no of the account; earlier ones are missing; nothing changed
--   applied   it is set

local gen, refill_no, status = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local overdraft, reason = tonumber(ARGV[5]), ARGV[6] or ''
local allowance, mark = tonumber(ARGV[7] or 0), tonumber(ARGV[8] or 0)

local refusal = begin_refill(gen, refill_no)
if refusal then
  return refusal
end
account.status, account.overdraft, account.allowance = status, overdraft, allowance
if mark ~= account.mark then
  -- What was told of another mark says nothing of this one.
  account.mark, account.rung = mark, 0
end
call('HSET', account_key, 'reason', reason)
return finish({ 'applied' })
