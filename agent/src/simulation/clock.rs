//! Virtual time and the tasks that run in it, on one thread: when nothing can go on, the clock is put to the next event.
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

type Task = Pin<Box<dyn Future<Output = ()>>>;
type Action = Box<dyn FnOnce()>;

/// Tasks that are to be looked at, in the order in which they were woken.
type Ready = Arc<Mutex<VecDeque<u64>>>;

struct Woken {
    id: u64,
    ready: Ready,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.ready.lock().unwrap().push_back(self.id);
    }
}

/// Each host's tasks, and what is to happen when.
pub(super) struct Clock {
    start: Instant,
    now_ms: Cell<u64>,
    /// By time, then in the order in which they were asked for.
    events: RefCell<BTreeMap<(u64, u64), Action>>,
    /// The host of each, and the task itself while it is not running.
    tasks: RefCell<BTreeMap<u64, (usize, Option<Task>)>>,
    ready: Ready,
    count: Cell<u64>,
    /// Hosts that are stopped, with what is to be looked at when they go on.
    stopped: RefCell<BTreeMap<usize, Vec<u64>>>,
}

impl Clock {
    pub(super) fn new() -> Rc<Self> {
        Rc::new(Self {
            start: Instant::now(),
            now_ms: Cell::new(0),
            events: RefCell::default(),
            tasks: RefCell::default(),
            ready: Ready::default(),
            count: Cell::new(0),
            stopped: RefCell::default(),
        })
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.now_ms.get()
    }

    /// What the product's steps take for now.
    pub(super) fn now(&self) -> Instant {
        self.start + Duration::from_millis(self.now_ms.get())
    }

    fn number(&self) -> u64 {
        self.count.set(self.count.get() + 1);
        self.count.get()
    }

    pub(super) fn after(&self, delay_ms: u64, action: impl FnOnce() + 'static) {
        let at = (self.now_ms.get() + delay_ms, self.number());
        self.events.borrow_mut().insert(at, Box::new(action));
    }

    /// Starts a task of a host.
    pub(super) fn spawn(&self, host: usize, task: impl Future<Output = ()> + 'static) -> u64 {
        let id = self.number();
        self.tasks.borrow_mut().insert(id, (host, Some(Box::pin(task))));
        self.ready.lock().unwrap().push_back(id);
        id
    }

    /// Ends a task where it is.
    pub(super) fn abort(&self, id: u64) {
        // Dropped after the borrow: a task's end may wake others.
        let task = self.tasks.borrow_mut().remove(&id);
        drop(task);
    }

    /// Ends all tasks of a host where they are.
    pub(super) fn kill(&self, host: usize) {
        self.stopped.borrow_mut().remove(&host);
        let of_host = |(id, (of, _)): (&u64, &(usize, Option<Task>))| (*of == host).then_some(*id);
        let ids: Vec<u64> = self.tasks.borrow().iter().filter_map(of_host).collect();
        ids.into_iter().for_each(|id| self.abort(id));
    }

    /// SIGSTOP: the host's tasks stay where they are.
    pub(super) fn stop(&self, host: usize) {
        self.stopped.borrow_mut().entry(host).or_default();
    }

    /// SIGCONT.
    pub(super) fn go_on(&self, host: usize) {
        let waiting = self.stopped.borrow_mut().remove(&host).unwrap_or_default();
        self.ready.lock().unwrap().extend(waiting);
    }

    pub(super) fn is_stopped(&self, host: usize) -> bool {
        self.stopped.borrow().contains_key(&host)
    }

    pub(super) fn sleep(self: &Rc<Self>, delay_ms: u64) -> Sleep {
        Sleep { clock: Rc::clone(self), until_ms: self.now_ms.get() + delay_ms, asked: false }
    }

    /// `None` if it takes longer.
    pub(super) async fn within<T>(
        self: &Rc<Self>,
        limit_ms: u64,
        future: impl Future<Output = T>,
    ) -> Option<T> {
        let (future, sleep) = (std::pin::pin!(future), std::pin::pin!(self.sleep(limit_ms)));
        match futures::future::select(future, sleep).await {
            futures::future::Either::Left((value, _)) => Some(value),
            futures::future::Either::Right(_) => None,
        }
    }

    /// Lets everything happen that happens up to a time.
    pub(super) fn run_until(&self, end_ms: u64) {
        loop {
            self.run_ready();
            let next = self.events.borrow().first_key_value().map(|(at, _)| *at);
            let Some(at) = next.filter(|(at, _)| *at <= end_ms) else { break };
            self.now_ms.set(self.now_ms.get().max(at.0));
            let action = self.events.borrow_mut().remove(&at);
            if let Some(action) = action {
                action();
            }
        }
        self.now_ms.set(end_ms);
    }

    /// Ends everything: tasks and events hold what holds them.
    pub(super) fn clear(&self) {
        let tasks = std::mem::take(&mut *self.tasks.borrow_mut());
        drop(tasks);
        let events = std::mem::take(&mut *self.events.borrow_mut());
        drop(events);
    }

    fn run_ready(&self) {
        loop {
            let Some(id) = self.ready.lock().unwrap().pop_front() else { return };
            let Some(host) = self.tasks.borrow().get(&id).map(|(host, _)| *host) else { continue };
            if let Some(waiting) = self.stopped.borrow_mut().get_mut(&host) {
                waiting.push(id);
                continue;
            }
            let task = self.tasks.borrow_mut().get_mut(&id).and_then(|(_, task)| task.take());
            let Some(mut task) = task else { continue };
            let waker = Waker::from(Arc::new(Woken { id, ready: Arc::clone(&self.ready) }));
            match task.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(()) => self.abort(id),
                // It may have been ended by what it did.
                Poll::Pending => {
                    if let Some((_, place)) = self.tasks.borrow_mut().get_mut(&id) {
                        *place = Some(task);
                    }
                }
            }
        }
    }
}

/// Sleeps for some virtual time.
pub(super) struct Sleep {
    clock: Rc<Clock>,
    until_ms: u64,
    asked: bool,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let now_ms = self.clock.now_ms();
        if now_ms >= self.until_ms {
            return Poll::Ready(());
        }
        if !self.asked {
            self.asked = true;
            let waker = context.waker().clone();
            self.clock.after(self.until_ms - now_ms, move || waker.wake());
        }
        Poll::Pending
    }
}
