-- expire: end the holds and grants of an account whose time has come, a bounded number of them.
--
-- KEYS as in prelude.lua
-- ARGV[1] epoch  integer  see prelude.lua
--
-- Returns {status, ...}:
--   done  more (1 when there is more to end now), next_expiry_ms (999999999999999 for never)

local refusal = load_account()
if refusal then
  return refusal
end
local is_all = expire_due()
return finish({ 'done', is_all and 0 or 1, account.next_expiry })
