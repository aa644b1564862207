//! A cpio archive, as the kernel unpacks one into its first file system (initramfs).

/// Of inode numbers nothing is asked but that they differ.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

/// Kinds and modes of entries, as of stat(2).
const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

impl Archive {
    /// A directory; its parent comes first.
    pub(super) fn directory(&mut self, path: &str) {
        self.entry(path, DIRECTORY, &[]);
    }

    /// A file that may be run.
    pub(super) fn file(&mut self, path: &str, content: &[u8]) {
        self.entry(path, PROGRAM, content);
    }

    /// The archive with its end.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    /// The format "newc" (Documentation/driver-api/early-userspace/buffer-format.rst): a head of hexadecimal numbers,
    /// the name, the content, each filled up to four bytes.
    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let length = u32::try_from(content.len()).expect("a small file");
        let name = u32::try_from(path.len()).expect("a short name") + 1;
        let numbers = [self.entries, mode, 0, 0, 1, 0, length, 0, 0, 0, 0, name, 0];
        let head: String = numbers.iter().map(|number| format!("{number:08x}")).collect();
        self.bytes.extend_from_slice(format!("070701{head}{path}\0").as_bytes());
        self.fill();
        self.bytes.extend_from_slice(content);
        self.fill();
    }

    fn fill(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_the_trailer_ends_it() {
        let mut archive = Archive::default();
        archive.directory("bin");
        archive.file("bin/sh", b"12345");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8(bytes).expect("text here");
        let starts: Vec<usize> = text.match_indices("070701").map(|(at, _)| at).collect();
        assert_eq!(starts.len(), 3);
        assert!(starts.iter().all(|at| at % 4 == 0));
        assert!(
            text.contains(concat!("12345\0\0\0", "070701")) && text[starts[2]..].contains("TRAILER!!!\0")
        );
    }
}
