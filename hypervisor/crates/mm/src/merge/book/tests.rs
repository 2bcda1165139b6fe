//! The book against a plain list of the same.

use super::{Added, Book, FIRST, MORE, Memory, Noted, Part, Sharer};
use crate::rmap::RmapId;
use addr::Pfn;
use core::cell::RefCell;
use std::collections::BTreeMap;
use std::vec::Vec;

const MOST: usize = 256;

/// Some frames, by number, and what is in those that are taken.
struct Frames {
    free: RefCell<Vec<u64>>,
    taken: RefCell<BTreeMap<u64, [u64; 512]>>,
}

impl Frames {
    fn new(count: u64) -> Self {
        Self { free: RefCell::new((1..=count).collect()), taken: RefCell::default() }
    }

    fn taken(&self) -> usize {
        self.taken.borrow().len()
    }
}

impl Memory for Frames {
    fn load(&self, frame: Pfn, place: u16) -> u64 {
        self.taken.borrow()[&frame.as_u64()][usize::from(place)]
    }

    fn store(&self, frame: Pfn, place: u16, word: u64) {
        self.taken.borrow_mut().get_mut(&frame.as_u64()).expect("a frame of the book's")
            [usize::from(place)] = word;
    }

    fn take(&self) -> Option<Pfn> {
        let frame = self.free.borrow_mut().pop()?;
        self.taken.borrow_mut().insert(frame, [u64::MAX; 512]);
        Some(Pfn::new(frame))
    }

    fn give_back(&self, frame: Pfn) {
        self.taken.borrow_mut().remove(&frame.as_u64()).expect("given back once");
        self.free.borrow_mut().push(frame.as_u64());
    }
}

fn sharer(number: u64) -> Sharer {
    Sharer::new(RmapId::new(1 + number as u32 % 7).expect("not zero"), number * number).expect("fits")
}

fn sharers(book: &Book, memory: &Frames, page: RmapId) -> Vec<Sharer> {
    (0..).map_while(|part| book.part(memory, page, part)).flatten().collect()
}

#[test]
fn a_sharer_is_what_it_was_made_of() {
    let (rmap, index) = (RmapId::new((1 << 28) - 1), (1 << 36) - 1);
    let largest = Sharer::new(rmap.expect("not zero"), index).expect("fits");
    assert_eq!((largest.rmap(), largest.index()), (rmap, index));
    assert_eq!(Sharer::new(rmap.expect("not zero"), index + 1), None);
    assert_eq!(Sharer::new(RmapId::of_merged(0), 0), None);
}

#[test]
fn numbers_of_merged_pages_are_no_reverse_maps() {
    for number in [0, 1, (1 << 31) - 1] {
        assert_eq!(RmapId::of_merged(number).merged(), Some(number));
    }
    assert_eq!(RmapId::new((1 << 31) - 1).and_then(RmapId::merged), None);
}

#[test]
fn sharers_are_found_in_order_however_many_there_are() {
    let (memory, book) = (Frames::new(4), Book::new());
    let page = book.begin(&memory, sharer(0)).expect("a frame");
    for count in 1..MOST {
        let all: Vec<_> = (0..count as u64).map(sharer).collect();
        assert_eq!(sharers(&book, &memory, page), all);
        assert_eq!(book.add(&memory, page, sharer(count as u64 - 1), MOST), Added::Known);
        assert_eq!(book.add(&memory, page, sharer(count as u64), MOST), Added::New);
    }
    assert_eq!(book.add(&memory, page, sharer(MOST as u64), MOST), Added::Refused);
    assert!((0..MOST as u64).all(|number| book.names(&memory, page, sharer(number))));
    assert!(!book.names(&memory, page, sharer(MOST as u64)));
    book.end(&memory, page);
    assert_eq!((memory.taken(), book.frames()), (0, 0));
}

#[test]
fn the_newest_is_taken_back_and_another_comes() {
    let (memory, book) = (Frames::new(1), Book::new());
    let page = book.begin(&memory, sharer(0)).expect("a frame");
    let most = FIRST + 2 * MORE + 1;
    for count in 1..most as u64 {
        for number in [1000, count] {
            assert_eq!(book.add(&memory, page, sharer(number), MOST), Added::New);
            if number == 1000 {
                book.drop_newest(&memory, page);
                assert!(!book.names(&memory, page, sharer(number)));
            }
        }
    }
    assert_eq!(sharers(&book, &memory, page), (0..most as u64).map(sharer).collect::<Vec<_>>());
    for left in (1..most as u64).rev() {
        book.drop_newest(&memory, page);
        assert_eq!(sharers(&book, &memory, page), (0..left).map(sharer).collect::<Vec<_>>());
    }
}

#[test]
fn what_a_page_is_found_by_stays_while_sharers_come() {
    let (memory, book) = (Frames::new(1), Book::new());
    let [other, page] = [0, 1].map(|number| book.begin(&memory, sharer(number)).expect("a frame"));
    book.note(&memory, page, (Pfn::new(77), 0xdead_beef), Some(other));
    for number in 2..40 {
        assert_eq!(book.add(&memory, page, sharer(number), MOST), Added::New);
    }
    let noted = Noted { frame: Pfn::new(77), checksum: 0xdead_beef, next: Some(other), count: 39 };
    assert_eq!(book.noted(&memory, page), Some(noted));
    assert_eq!(sharers(&book, &memory, page).len(), 39);
    assert_eq!(sharers(&book, &memory, other), [sharer(0)]);
}

/// A group of so many, the newest first, with frames of these numbers.
fn group(book: &Book, memory: &Frames, count: u64) -> Option<RmapId> {
    (0..count).fold(None, |newest, number| {
        let page = book.begin(memory, sharer(number)).expect("a frame");
        book.note(memory, page, (Pfn::new(number), 7), newest);
        Some(page)
    })
}

fn frames_of(book: &Book, memory: &Frames, newest: Option<RmapId>) -> Vec<u64> {
    let mut frames = Vec::new();
    book.each(memory, newest, |frame, _| frames.push(frame.as_u64()));
    frames
}

#[test]
fn those_that_have_gone_leave_their_group_wherever_they_are() {
    for stay in 0..1 << 5 {
        let (memory, book) = (Frames::new(1), Book::new());
        let newest = group(&book, &memory, 5);
        assert_eq!(frames_of(&book, &memory, newest), [4, 3, 2, 1, 0]);
        let stays = |frame: u64| stay >> frame & 1 == 1;
        let newest = book.retain(&memory, newest, |frame, _| stays(frame.as_u64()));
        let left: Vec<_> = (0..5).rev().filter(|&frame| stays(frame)).collect();
        assert_eq!(frames_of(&book, &memory, newest), left);
        assert_eq!(memory.taken(), usize::from(stay > 0));
    }
}

#[test]
fn a_page_goes_with_all_its_sharers() {
    let (memory, book) = (Frames::new(1), Book::new());
    let newest = group(&book, &memory, 2);
    for number in 2..100 {
        book.add(&memory, newest.expect("a page"), sharer(number), MOST);
    }
    let newest = book.retain(&memory, newest, |frame, _| frame == Pfn::new(0));
    assert_eq!(frames_of(&book, &memory, newest), [0]);
    // All but one chunk are free again.
    assert_eq!((0..).map_while(|number| book.begin(&memory, sharer(number))).count(), 63);
}

#[test]
fn without_a_frame_nothing_is_added_and_nothing_lost() {
    let (memory, book) = (Frames::new(1), Book::new());
    let pages: Vec<_> = (0..).map_while(|number| book.begin(&memory, sharer(number))).collect();
    assert_eq!(pages.len(), 64, "as many as a frame has room for");
    let page = pages[9];
    for number in 100..100 + FIRST as u64 - 1 {
        assert_eq!(book.add(&memory, page, sharer(number), MOST), Added::New);
    }
    assert_eq!(book.add(&memory, page, sharer(200), MOST), Added::Refused);
    assert_eq!(sharers(&book, &memory, page).len(), FIRST);
    book.end(&memory, pages[10]);
    assert_eq!(book.add(&memory, page, sharer(200), MOST), Added::New);
    assert!(book.begin(&memory, sharer(0)).is_none());
}

#[test]
fn who_asks_for_a_page_that_has_gone_finds_nobody() {
    let (memory, book) = (Frames::new(2), Book::new());
    let page = book.begin(&memory, sharer(0)).expect("a frame");
    book.end(&memory, page);
    for gone in [page, RmapId::of_merged(5_000), RmapId::new(3).expect("not zero")] {
        assert_eq!(book.part(&memory, gone, 0), None::<Part>);
        assert_eq!(book.noted(&memory, gone), None);
        assert_eq!(book.add(&memory, gone, sharer(1), MOST), Added::Refused);
        book.drop_newest(&memory, gone);
        book.end(&memory, gone);
    }
    assert_eq!(memory.taken(), 0);
}

#[test]
fn frames_come_and_go_with_what_is_in_them() {
    let (memory, book) = (Frames::new(8), Book::new());
    let mut pages: Vec<_> =
        (0..200).map(|number| book.begin(&memory, sharer(number)).expect("a frame")).collect();
    assert_eq!((memory.taken(), book.frames()), (4, 4));
    pages.drain(64..128).for_each(|page| book.end(&memory, page));
    assert_eq!(memory.taken(), 3);
    pages.extend((0..70).map(|number| book.begin(&memory, sharer(number)).expect("a frame")));
    assert_eq!(memory.taken(), 4, "places that are free come first, then the frame that has gone");
    let distinct: std::collections::BTreeSet<_> = pages.iter().map(|page| page.get()).collect();
    assert_eq!(distinct.len(), pages.len());
    book.close(&memory);
    assert_eq!((memory.taken(), book.frames()), (0, 0));
}
