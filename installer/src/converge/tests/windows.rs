//! Contents that are looked at in several stretches.

use super::super::fill::fill;
use super::*;

/// Brings blocks to their place, looking at so many in one go; gives what came, and how often each block was written.
async fn bring_in(window: u64, content: &[u8], payload: &Payload, repository: &Repository, region: &Region) -> Tally {
    let tree = open_tree(content);
    let goal = goal_of(payload, &repository.mirrors(), &tree, region, &Progress::default());
    let goal = Goal { window, ..goal };
    fill(&goal, None, &[], &Arc::new(BlockSet::new(goal.blocks.clone()))).await.unwrap()
}

#[tokio::test]
async fn frames_across_the_end_of_a_stretch_and_equal_blocks_in_several_come_right() {
    // 200 blocks, of which the second half is the first once more, and some are zero; frames of 7 blocks.
    let mut content = bytes(31, 100 << 12);
    content[10 << 12..13 << 12].fill(0);
    content.extend_from_within(..);
    let repository = Repository::new();
    let payload = repository.publish_in(&content, 7 << 12);
    for window in [1, 13, 64, 199, 200, 1000] {
        let (disk, region) = recording(1 << 20);
        let tally = bring_in(window, &content, &payload, &repository, &region).await;
        assert!(on_disk(&region, content.len()) == content, "windows of {window}");
        assert_only_verified(&disk.log(), &content);
        // A blank disk has the zeroes.
        assert_eq!((tally.blocks(), tally.kept), (200, 6), "windows of {window}");
        // What is there is kept, in whichever stretch it lies.
        region.write_at(50 << 12, &[7; 4096]).unwrap();
        region.write_at(150 << 12, &[7; 4096]).unwrap();
        let again = bring_in(window, &content, &payload, &repository, &region).await;
        assert!(on_disk(&region, content.len()) == content, "windows of {window}");
        assert_eq!((again.kept, again.written()), (198, 2), "windows of {window}");
    }
}
