// The lists of a top-k search: each query of a workgroup has one, sorted, in the buffer `found`, and candidates for it in
// workgroup memory. When one query's candidates are full, those of all are merged into the lists, by counting how many of
// the others come before each, into the list's other side. The order is total (score descending, row ascending), so that
// the order of appending does not matter.
//
// found, as u32:  lists  [splits, queries]: count, then k times (key, row)
//                 others [splits, queries]: k times (key, row)
//
// Of the kernel's params `splits`, `queries`, `k`, `resume` (whether the lists hold what earlier launches found) and `floor` (the
// key that must be exceeded) are used.

// Lists of QT queries, LANES threads each, and room for ROOM candidates.
//% macro lists(QT, LANES, ROOM)
var<workgroup> candidates: array<vec2<u32>, {{ QT * ROOM }}>;
var<workgroup> counts: array<atomic<u32>, {{ QT }}>;
// The list of each query: its length, which side it is on, and what a newcomer must come before.
var<workgroup> lengths: array<u32, {{ QT }}>;
var<workgroup> sides: array<u32, {{ QT }}>;
var<workgroup> worst: array<vec2<u32>, {{ QT }}>;
var<workgroup> waiting: atomic<u32>;
var<workgroup> again: u32;

fn before(a: vec2<u32>, b: vec2<u32>) -> bool {
    return a.x > b.x || (a.x == b.x && a.y < b.y);
}

// Entry i of side `side` of list `list`.
fn place(side: u32, list: u32, i: u32) -> u32 {
    let other = params.splits * params.queries * (2u * params.k + 1u);
    return select(list * (2u * params.k + 1u) + 1u, other + list * 2u * params.k, side == 1u) + 2u * i;
}

fn entry_at(side: u32, list: u32, i: u32) -> vec2<u32> {
    let at = place(side, list, i);
    return vec2<u32>(found[at], found[at + 1u]);
}

fn set_entry(side: u32, list: u32, i: u32, entry: vec2<u32>) {
    let at = place(side, list, i);
    found[at] = entry.x;
    found[at + 1u] = entry.y;
}

// Merges the candidates of each query into its list; {{ LANES }} threads a query. Follows a barrier, ends with one.
fn merge(thread: u32, first_list: u32) {
    let q = thread / {{ LANES }}u;
    let lane = thread % {{ LANES }}u;
    let list = first_list + q;
    let fresh = min(atomicLoad(&counts[q]), {{ ROOM }}u);
    let length = lengths[q];
    let side = sides[q];
    if fresh > 0u {
        for (var i = lane; i < length; i += {{ LANES }}u) {
            let entry = entry_at(side, list, i);
            var rank = i;
            for (var j = 0u; j < fresh; j++) {
                rank += select(0u, 1u, before(candidates[q * {{ ROOM }}u + j], entry));
            }
            if rank < params.k { set_entry(1u - side, list, rank, entry); }
        }
        for (var i = lane; i < fresh; i += {{ LANES }}u) {
            let entry = candidates[q * {{ ROOM }}u + i];
            // The list is sorted: how many of it come before the entry is found by halving.
            var low = 0u;
            var high = length;
            while low < high {
                let middle = (low + high) / 2u;
                if before(entry_at(side, list, middle), entry) { low = middle + 1u; } else { high = middle; }
            }
            for (var j = 0u; j < fresh; j++) {
                low += select(0u, 1u, before(candidates[q * {{ ROOM }}u + j], entry));
            }
            if low < params.k { set_entry(1u - side, list, low, entry); }
        }
    }
    storageBarrier();
    workgroupBarrier();
    if fresh > 0u && lane == 0u {
        let now = min(length + fresh, params.k);
        lengths[q] = now;
        sides[q] = 1u - side;
        atomicStore(&counts[q], 0u);
        if now == params.k { worst[q] = entry_at(1u - side, list, now - 1u); }
    }
    workgroupBarrier();
}
//% endmacro

// Starts the lists `first_list` and following, of the queries `first_query` and following.
//% macro open_lists(QT)
    if thread < {{ QT }}u {
        atomicStore(&counts[thread], 0u);
        lengths[thread] = 0u;
        sides[thread] = 0u;
        worst[thread] = vec2<u32>(params.floor, 0u);
        if params.resume == 1u && first_query + thread < params.queries {
            let length = min(found[(first_list + thread) * (2u * params.k + 1u)], params.k);
            lengths[thread] = length;
            if length == params.k { worst[thread] = entry_at(0u, first_list + thread, length - 1u); }
        }
    }
    if thread == 0u { atomicStore(&waiting, 0u); }
    workgroupBarrier();
//% endmacro

// Takes those of the offers (a key, a row, a query of the workgroup each) whose bits are set in `pending`. For all threads.
//% macro offer(offers, ROOM)
        loop {
            //% for key, row, query in offers
            if (pending & {{ 2 ** loop.index0 }}u) != 0u {
                let entry = vec2<u32>({{ key }}, {{ row }});
                var taken = true;
                if before(entry, worst[{{ query }}]) {
                    let at = atomicAdd(&counts[{{ query }}], 1u);
                    taken = at < {{ ROOM }}u;
                    if taken { candidates[({{ query }}) * {{ ROOM }}u + at] = entry; }
                }
                if taken { pending &= {{ 65535 - 2 ** loop.index0 }}u; }
            }
            //% endfor
            if pending != 0u { atomicStore(&waiting, 1u); }
            workgroupBarrier();
            if thread == 0u { again = atomicExchange(&waiting, 0u); }
            let full = workgroupUniformLoad(&again);
            if full == 0u { break; }
            merge(thread, first_list);
        }
//% endmacro

// Leaves the lists on their first side, with their lengths.
//% macro close_lists(LANES)
    merge(thread, first_list);
    let q = thread / {{ LANES }}u;
    if first_query + q < params.queries {
        let list = first_list + q;
        if sides[q] == 1u {
            for (var i = thread % {{ LANES }}u; i < lengths[q]; i += {{ LANES }}u) { set_entry(0u, list, i, entry_at(1u, list, i)); }
        }
        if thread % {{ LANES }}u == 0u { found[list * (2u * params.k + 1u)] = lengths[q]; }
    }
//% endmacro
