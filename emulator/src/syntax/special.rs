//! Names of special registers. Manual: "Special Registers".

use super::ast::Special;

/// What a name that starts with `%` stands for.
pub enum Meaning {
    Scalar(Special),
    /// One of its components has to be named: `.x`, `.y`, `.z`, or the `.w` that is always 0.
    Vector(fn(u8) -> Special),
    /// A special register that the emulator does not have.
    Unsupported,
}

pub fn meaning(name: &str) -> Option<Meaning> {
    use Meaning::{Scalar, Unsupported, Vector};
    Some(match name.strip_prefix('%')? {
        "tid" => Vector(Special::Tid),
        "ntid" => Vector(Special::Ntid),
        "ctaid" => Vector(Special::Ctaid),
        "nctaid" => Vector(Special::Nctaid),
        "clusterid" => Vector(Special::ClusterId),
        "nclusterid" => Vector(Special::NClusterId),
        "cluster_ctaid" => Vector(Special::ClusterCtaId),
        "cluster_nctaid" => Vector(Special::ClusterNCtaId),
        "cluster_ctarank" => Scalar(Special::ClusterCtaRank),
        "cluster_nctarank" => Scalar(Special::ClusterNCtaRank),
        "is_explicit_cluster" => Scalar(Special::IsExplicitCluster),
        "laneid" => Scalar(Special::LaneId),
        "warpid" => Scalar(Special::WarpId),
        "nwarpid" => Scalar(Special::NWarpId),
        "smid" => Scalar(Special::SmId),
        "nsmid" => Scalar(Special::NSmId),
        "gridid" => Scalar(Special::GridId),
        "clock" => Scalar(Special::Clock),
        "clock_hi" => Scalar(Special::ClockHi),
        "clock64" => Scalar(Special::Clock64),
        "globaltimer" => Scalar(Special::GlobalTimer),
        "globaltimer_lo" => Scalar(Special::GlobalTimerLo),
        "globaltimer_hi" => Scalar(Special::GlobalTimerHi),
        "lanemask_eq" => Scalar(Special::LaneMaskEq),
        "lanemask_le" => Scalar(Special::LaneMaskLe),
        "lanemask_lt" => Scalar(Special::LaneMaskLt),
        "lanemask_ge" => Scalar(Special::LaneMaskGe),
        "lanemask_gt" => Scalar(Special::LaneMaskGt),
        "dynamic_smem_size" => Scalar(Special::DynamicSmemSize),
        "total_smem_size" => Scalar(Special::TotalSmemSize),
        "aggr_smem_size" | "current_graph_exec" => Unsupported,
        other => {
            let numbered = |prefix: &str, suffix: &str| {
                let number = other.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(suffix));
                number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
            };
            if numbered("pm", "")
                || numbered("pm", "_64")
                || numbered("envreg", "")
                || other.starts_with("reserved_smem_")
            {
                Unsupported
            } else {
                return None;
            }
        }
    })
}

/// The number of a vector's component: `.x` or `.r` is 0.
pub fn component(text: &str) -> Option<u8> {
    Some(match text {
        ".x" | ".r" => 0,
        ".y" | ".g" => 1,
        ".z" | ".b" => 2,
        ".w" | ".a" => 3,
        _ => return None,
    })
}
