//! Every site that calls the notifiers: what a guest sees of each operation of the host memory manager, on a machine
//! with several address spaces, swap and files. Each site of the 2008 patch has scenarios that name it
//! (`docs/notifiers.md`), and `every_call` leaves out each of their calls in turn.

mod apply;
mod batch;
mod bench;
mod cow;
mod crowd;
mod devices;
mod dirty;
mod dirty_log;
mod every_call;
mod exhaustion;
mod fork;
mod hugetlb;
mod limits;
mod merge;
mod mremap;
mod nonlinear;
mod protect;
mod races;
mod recorder;
mod rmap;
mod scenario;
mod share;
mod shrink;
mod snapshot;
mod swap;
mod table;
mod thp;
mod unmap;
mod waiting;
mod writeback;
mod xip;
mod young;

type Outcome = Result<(), tests::Violation>;
