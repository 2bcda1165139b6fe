//! Where the notifiers are called, by the names of the 2008 patch where it has them.

macro_rules! sites {
    ($(#[doc = $kind:literal])+ $name:ident { $($(#[doc = $doc:literal])+ $site:ident,)+ }) => {
        $(#[doc = $kind])+
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum $name { $($(#[doc = $doc])+ $site,)+ }

        impl $name {
            /// Every site.
            pub const ALL: &[Self] = &[$(Self::$site,)+];

            /// What happens there.
            #[must_use]
            pub const fn describe(self) -> &'static str {
                match self { $(Self::$site => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

sites! {
    /// A site that calls begin and end, and owes one flush of the primary translations in between.
    RangeSite {
        /// munmap and whatever unmaps an area, exit too (`unmap_region`)
        UnmapRegion,
        /// discard, truncation, hugetlb (`zap_page_range`, `__unmap_hugepage_range`)
        ZapPageRange,
        /// truncation of a non-linear mapping
        ZapNonlinear,
        /// fork (`copy_page_range`)
        CopyPageRange,
        /// mprotect (`mprotect_fixup`)
        MprotectFixup,
        /// mremap (`move_ptes`)
        MovePtes,
        /// `sys_remap_file_pages`
        RemapFilePages,
        /// `apply_to_page_range`
        ApplyToPageRange,
        /// `MADV_FREE`
        FreeLazily,
        /// collapse into a huge page
        Collapse,
        /// split of a huge page
        Split,
        /// copy of a hugetlb page
        HugetlbCow,
    }
}

impl RangeSite {
    /// Whether a flush of primary translations is gathered there. A split needs none (I9), the copy of a hugetlb page
    /// clears and flushes one entry.
    #[must_use]
    pub const fn owes_flush(self) -> bool {
        !matches!(self, Self::Split | Self::HugetlbCow)
    }

    /// Whether what is read in the range may be something else afterwards. `MADV_FREE` lets pages go later, one by one.
    #[must_use]
    pub const fn changes_contents(self) -> bool {
        matches!(
            self,
            Self::UnmapRegion
                | Self::ZapPageRange
                | Self::ZapNonlinear
                | Self::MovePtes
                | Self::RemapFilePages
                | Self::ApplyToPageRange
        )
    }
}

sites! {
    /// A site that calls `invalidate_page`, under the page-table lock.
    PageSite {
        /// copy-on-write (`do_wp_page`)
        DoWpPage,
        /// write-back (`page_mkclean_one`)
        PageMkcleanOne,
        /// reclaim (`try_to_unmap_one`, `try_to_unmap_cluster`)
        TryToUnmapOne,
        /// reclaim of neighbours at once
        UnmapTogether,
        /// the zero page of an execute-in-place file (`__xip_unmap`)
        XipUnmap,
        /// migration
        Migrate,
        /// merging, the page that others become (Linux: `write_protect_page`)
        MergeProtect,
        /// merging, a page that becomes another (Linux: `replace_page`)
        MergeReplace,
    }
}

sites! {
    /// A site that calls `clear_flush_young`, under the page-table lock.
    YoungSite {
        /// aging by the reverse map (`page_referenced_one`)
        PageReferencedOne,
        /// reclaim (`try_to_unmap_one`)
        TryToUnmapOne,
        /// aging by address
        ByAddress,
    }
}
