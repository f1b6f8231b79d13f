// Package clock says what time it is for the ends of access: an end that was
// reached stays reached, though somebody sets the clock back.
//
// A clock that is set has two stories, and no one can tell them apart: that it
// was right and is wrong now, or that it was wrong and has been put right. So the
// time here is neither the latest ever seen, since then one hour of a clock that
// was ahead would end access for good, nor that of the wall clock alone, since
// then a clock set back would revive what has ended. It is the latest of three:
//
//   - the wall clock's;
//   - that of the process's start, and what has passed since by the monotonic
//     clock, which nobody sets;
//   - what a process before had seen pass in that way, from its file. It stands
//     still, so the wall clock catches up with it.
//
// So a step back is no step here, and a step forward that is taken back leaves
// nothing behind. A process that starts while the clock is ahead ends access early
// by as much, until it is started again with the clock right. One that starts
// while the clock is behind, and sees it put right, does not notice if it is set
// back once more. One that starts with the clock set back has time stand still until
// the wall clock has caught up, so what has not ended yet ends later by as much, as
// by any clock that is behind. A file whose time is wrong is told of in the log at
// each start, and can be deleted.
package clock
