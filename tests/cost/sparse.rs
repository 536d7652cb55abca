use nearkin::ops::select::{Bitmap, Filter, Rows, Search};
use nearkin::ops::sparse::{Csr, Impact, SparseCorpus, topk};

use crate::common::Rng;
use crate::pinned::pinned;
use crate::{emulated, launches};

const TILE: usize = 4096;
const TERMS: usize = 500;
/// Bytes that memory gives at a time.
const SECTOR: usize = 32;

/// Bytes of the sectors in which a part of an array lies.
fn sectors(bytes: std::ops::Range<usize>) -> usize {
    match bytes.is_empty() {
        true => 0,
        false => (bytes.end.div_ceil(SECTOR) - bytes.start / SECTOR) * SECTOR,
    }
}

#[test]
fn a_search_reads_the_runs_of_its_terms_and_writes_no_scores() {
    let Some((emulator, device)) = emulated() else { return };
    for (rows, impact, size, k) in [
        (20_000usize, Impact::F32, 4, 10),
        (20_000, Impact::F16, 2, 10),
        (20_000, Impact::U8 { scale: 1.0 }, 1, 100),
    ] {
        let mut rng = Rng(17);
        let mut offsets = vec![0i64];
        let (mut terms, mut weights) = (Vec::new(), Vec::new());
        for _ in 0..rows {
            // The low terms are frequent.
            let mut own: Vec<u32> =
                (0..40).map(|_| (rng.unit().powi(2) * TERMS as f32) as u32).collect();
            own.sort_unstable();
            own.dedup();
            weights.extend(own.iter().map(|_| rng.below(200) as f32));
            terms.extend(own);
            offsets.push(terms.len() as i64);
        }
        let mut corpus = SparseCorpus::new(&device, TERMS, impact).unwrap();
        corpus.append(Csr { offsets: &offsets, terms: &terms, weights: &weights }).unwrap();
        let asked: Vec<u32> = (0..20).map(|i| i * i).collect();
        let query = vec![1.0f32; asked.len()];
        let query = Csr { offsets: &[0, 20], terms: &asked, weights: &query };
        // Where the runs begin, as the corpus puts them: tile by tile, term by term.
        let mut floor = 8 * asked.len();
        let mut begin = 0;
        for tile in 0..rows.div_ceil(TILE) {
            let own = offsets[tile * TILE] as usize..offsets[rows.min((tile + 1) * TILE)] as usize;
            let mut counts = [0usize; TERMS];
            terms[own].iter().for_each(|&term| counts[term as usize] += 1);
            for (term, &count) in counts.iter().enumerate() {
                let run = begin..begin + count;
                if asked.contains(&(term as u32)) {
                    let bound = 4 * (tile * (TERMS + 1) + term);
                    floor += sectors(bound..bound + 8);
                    floor += sectors(2 * run.start..2 * run.end);
                    floor += sectors(size * run.start..size * run.end);
                }
                begin = run.end;
            }
        }
        let what = format!("{rows} documents, {size} bytes an impact, k {k}");
        let run = |filter| {
            let all = launches(&emulator, || {
                topk(query, &corpus, &Search { filter, ..Search::new(k) }).unwrap();
            });
            let names: Vec<&str> = all.iter().map(|l| l.kernel.as_str()).collect();
            assert_eq!(names, ["sparse", "select_merge"], "{what}");
            all.into_iter().next().unwrap().counts
        };
        let scan = run(Filter::All);
        let cold = SECTOR as u64 * scan.global.cold_read_sectors;
        let written = SECTOR as u64 * scan.global.cold_written_sectors;
        println!(
            "{what}: {cold} bytes read from memory ({:.3} of the floor), {written} written, {} warp instructions",
            cold as f64 / floor as f64,
            scan.warp_instructions
        );
        assert!(cold as usize <= floor + floor / 10, "{what}: {cold} bytes, floor {floor}");
        // Lists alone are written: far fewer bytes than the scores would take.
        assert!(written < rows as u64, "{what}: {written} bytes written");
        pinned(
            &format!("sparse, {what}"),
            &[("bytes read from memory", cold), ("warp instructions", scan.warp_instructions)],
        );
        assert_eq!(scan.local_bytes, 0, "{what}: local memory");
        // Tiles of which all is excluded are not read.
        let half = Bitmap::from_fn(rows, |row| (row / TILE).is_multiple_of(2));
        let filtered = run(Filter::Shared(Rows::Exclude(&half)));
        assert!(
            filtered.global.cold_read_sectors < scan.global.cold_read_sectors * 6 / 10,
            "{what}"
        );
    }
}
