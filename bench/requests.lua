-- Another item each time: the same text again and again would compress as no real traffic does.
local requests, n = {}, 0
function init()
    for i = 1, 64 do requests[i] = wrk.format("GET", "/async/" .. i) end
end
function request()
    n = n % 64 + 1
    return requests[n]
end
