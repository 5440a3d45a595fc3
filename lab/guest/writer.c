/*
 * The program the test guest runs: it writes numbered blocks to every disk, dirties memory, and says on the
 * serial console how far it got, so that what the images hold can be compared with what the guest was told.
 *
 * Console lines (blocks.py and console.py read the same):
 *   disk <name> window=<slots> stride=<n> fill=<blocks> allowance=<blocks> rate=<blocks/s>
 *   ready <run id> disks=<name>,<name>
 *   ack <name> <highest sequence completed> <monotonic ms>
 *   tick <n> <monotonic ms>
 *   error <text> / corrupt <text>
 *
 * Sequence n of a disk goes to block (n * stride % slots); the blocks behind the window are the filled area.
 * Only the main thread acknowledges, and a disk never runs more than `allowance` blocks ahead of the last
 * acknowledgement that has left the serial port.
 * Settings come from the environment, where the kernel puts the name=value words of its command line.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define BLOCK 4096
#define BLOCKS_PER_MIB 256
#define MAX_DISKS 16
#define MAX_ALLOWANCE 1024
#define SYNC_EVERY 64
#define TICK_NS 100000000LL
#define SECOND_NS 1000000000LL
#define PAGE_WORDS 512
#define STAMPS 8
#define PAGE_BATCH 32
#define MAX_COMPLAINTS 20

enum kind { RING = 1, FILL = 2 };

struct block {
    char magic[8];
    uint64_t run;
    char disk[8];
    uint64_t kind, sequence, position;
    uint64_t data[505];
    uint64_t checksum; /* crc32 of all that precedes */
};
_Static_assert(sizeof(struct block) == BLOCK, "a block is 4096 bytes");

struct disk {
    char name[8];
    int fd;
    uint64_t slots, stride, fill, allowance, rate;
    _Atomic uint64_t completed, acknowledged;
};

static struct disk disks[MAX_DISKS];
static int disk_count;
static uint64_t run_id;
static uint32_t crc_table[8][256];

/* ---- small parts ---- */

/* One write per line: the tty keeps whole writes together, so lines of different threads never mix. */
static void say(const char *format, ...)
{
    char line[512];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    if (write(STDOUT_FILENO, line, length) < 0)
        return; /* there is nowhere else to complain */
}

static void complain(const char *what, const char *name, uint64_t number)
{
    static _Atomic int complaints;
    if (atomic_fetch_add(&complaints, 1) < MAX_COMPLAINTS)
        say("%s %s %llu %s\n", what, name, (unsigned long long)number, errno ? strerror(errno) : "");
}

/* This is process 1: were it to end, the kernel would panic and reboot over the evidence. */
static void give_up(const char *name)
{
    complain("error", name, 0);
    for (;;)
        pause();
}

static uint64_t setting(const char *name, uint64_t otherwise)
{
    const char *value = getenv(name);
    return value && *value ? strtoull(value, NULL, 10) : otherwise;
}

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * SECOND_NS + now.tv_nsec;
}

/* Waits for the next beat. Who is late by more than a second starts afresh instead of catching up in a burst. */
static void wait_for_beat(int64_t *next, int64_t interval)
{
    *next += interval;
    if (now_ns() - *next > SECOND_NS)
        *next = now_ns();
    struct timespec until = {*next / SECOND_NS, *next % SECOND_NS};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
        ;
}

static uint64_t scrambled(uint64_t x)
{
    x = (x ^ (x >> 31)) * 0x9e3779b97f4a7c15ULL;
    return x ^ (x >> 29);
}

static void make_crc_tables(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
        crc_table[0][i] = crc;
    }
    for (int k = 1; k < 8; k++)
        for (int i = 0; i < 256; i++)
            crc_table[k][i] = crc_table[k - 1][i] >> 8 ^ crc_table[0][crc_table[k - 1][i] & 255];
}

/* zlib's crc32, eight bytes a step. */
static uint32_t crc32_of(const uint64_t *words, int count)
{
    uint32_t crc = 0xffffffff;
    for (int i = 0; i < count; i++) {
        uint64_t word = words[i] ^ crc;
        crc = 0;
        for (int k = 0; k < 8; k++, word >>= 8)
            crc ^= crc_table[7 - k][word & 255];
    }
    return ~crc;
}

/* ---- disks ---- */

static void make_block(struct block *block, const struct disk *disk, enum kind kind, uint64_t sequence, uint64_t position)
{
    memcpy(block->magic, "DROVER01", 8);
    memcpy(block->disk, disk->name, 8);
    block->run = run_id;
    block->kind = kind;
    block->sequence = sequence;
    block->position = position;
    uint64_t random = scrambled(run_id ^ sequence << 20 ^ (uint64_t)disk->fd);
    for (int i = 0; i < 505; i++)
        block->data[i] = random = random * 6364136223846793005ULL + 1442695040888963407ULL;
    block->checksum = crc32_of((const uint64_t *)block, BLOCK / 8 - 1);
}

static void write_fully(struct disk *disk, const void *data, size_t size, uint64_t position)
{
    ssize_t written = pwrite(disk->fd, data, size, position * BLOCK);
    if (written != (ssize_t)size)
        complain("error writing", disk->name, position);
}

static void fill(struct disk *disk)
{
    struct block *blocks = aligned_alloc(BLOCK, BLOCKS_PER_MIB * BLOCK);
    for (uint64_t done = 0; done < disk->fill; done += BLOCKS_PER_MIB) {
        uint64_t count = disk->fill - done < BLOCKS_PER_MIB ? disk->fill - done : BLOCKS_PER_MIB;
        uint64_t first = disk->slots + done;
        for (uint64_t i = 0; i < count; i++)
            make_block(&blocks[i], disk, FILL, first + i, first + i);
        write_fully(disk, blocks, count * BLOCK, first);
    }
    if (fdatasync(disk->fd))
        complain("error syncing", disk->name, 0);
    free(blocks);
}

static void *write_ring(void *argument)
{
    struct disk *disk = argument;
    struct block *block = aligned_alloc(BLOCK, BLOCK);
    int64_t next = now_ns();
    for (uint64_t sequence = 1;; sequence++) {
        wait_for_beat(&next, SECOND_NS / disk->rate);
        while (sequence > disk->acknowledged + disk->allowance)
            usleep(2000);
        uint64_t position = sequence * disk->stride % disk->slots;
        make_block(block, disk, RING, sequence, position);
        write_fully(disk, block, BLOCK, position);
        if (sequence % SYNC_EVERY == 0 && fdatasync(disk->fd))
            complain("error syncing", disk->name, sequence);
        disk->completed = sequence;
    }
    return NULL;
}

static uint64_t common_divisor(uint64_t a, uint64_t b)
{
    return b ? common_divisor(b, a % b) : a;
}

static void add_disk(const char *name)
{
    struct disk *disk = &disks[disk_count++];
    char path[32];
    uint64_t bytes;
    strcpy(disk->name, name);
    snprintf(path, sizeof path, "/disks/%s", name);
    disk->fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
    if (disk->fd < 0 || ioctl(disk->fd, BLKGETSIZE64, &bytes))
        give_up(path);
    uint64_t blocks = bytes / BLOCK;
    uint64_t window = setting("drover_window_mib", 16) * BLOCKS_PER_MIB;
    uint64_t wanted = setting("drover_fill_mib", 0) * BLOCKS_PER_MIB;
    disk->slots = window < blocks ? window : blocks;
    disk->fill = wanted < blocks - disk->slots ? wanted : blocks - disk->slots;
    disk->allowance = disk->slots / 4 < MAX_ALLOWANCE ? disk->slots / 4 : MAX_ALLOWANCE;
    disk->rate = setting("drover_rate", 200);
    for (disk->stride = 257; common_divisor(disk->stride, disk->slots) != 1;)
        disk->stride++;
}

static void find_disks(void)
{
    for (const char *bus = "vs"; *bus; bus++)
        for (char letter = 'a'; letter <= 'z' && disk_count < MAX_DISKS; letter++) {
            char path[] = {'/', 'd', 'i', 's', 'k', 's', '/', *bus, 'd', letter, 0};
            if (access(path, F_OK) == 0)
                add_disk(path + 7);
        }
}

/* ---- memory ---- */

/* The expected count of a page lives in another page, so a page left behind by a migration shows. */
static uint64_t *memory;
static uint32_t *visits;
static uint64_t page_count;

static uint64_t stamp_of(uint64_t page, uint32_t visit)
{
    return scrambled(run_id ^ page << 32 ^ visit);
}

static void check_page(uint64_t page, int step)
{
    const uint64_t *words = memory + page * PAGE_WORDS;
    uint64_t stamp = stamp_of(page, visits[page]), still = stamp_of(page, 0);
    for (int i = 0; i < PAGE_WORDS; i += step)
        if (words[i] != (i % (PAGE_WORDS / STAMPS) ? still + i : stamp)) {
            errno = 0;
            complain("corrupt", "page", page);
            return;
        }
}

static void stamp_page(uint64_t page)
{
    uint64_t stamp = stamp_of(page, ++visits[page]);
    for (int i = 0; i < PAGE_WORDS; i += PAGE_WORDS / STAMPS)
        memory[page * PAGE_WORDS + i] = stamp;
}

static void allocate_memory(void)
{
    page_count = setting("drover_dirty_mib", 0) * BLOCKS_PER_MIB;
    if (!page_count)
        return;
    memory = mmap(NULL, page_count * BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    visits = calloc(page_count, sizeof *visits);
    if (memory == MAP_FAILED || !visits)
        give_up("memory");
    for (uint64_t page = 0; page < page_count; page++) {
        for (int i = 0; i < PAGE_WORDS; i++)
            memory[page * PAGE_WORDS + i] = stamp_of(page, 0) + i;
        stamp_page(page);
    }
}

/* Goes through the pages for ever: checks the stamps (and every 16th time the whole page), stamps anew. */
static void *dirty_memory(void *unused)
{
    const char *rate_text = getenv("drover_dirty_rate");
    uint64_t rate = setting("drover_dirty_rate", 0); /* MiB/s; 0 only checks */
    int unpaced = rate_text && strcmp(rate_text, "max") == 0;
    int64_t interval = PAGE_BATCH * SECOND_NS / BLOCKS_PER_MIB / (rate ? rate : 4), next = now_ns();
    setpriority(PRIO_PROCESS, 0, 10);
    for (uint64_t done = 0;; done++) {
        uint64_t page = done % page_count;
        check_page(page, visits[page] % 16 && (rate || unpaced) ? PAGE_WORDS / STAMPS : 1);
        if (rate || unpaced)
            stamp_page(page);
        if (!unpaced && done % PAGE_BATCH == 0)
            wait_for_beat(&next, interval);
    }
    return unused;
}

/* ---- start and heartbeat ---- */

static void start(void *(*function)(void *), void *argument)
{
    pthread_t thread;
    if ((errno = pthread_create(&thread, NULL, function, argument)))
        give_up("thread");
}

static void announce(void)
{
    char names[MAX_DISKS * 8] = "";
    for (struct disk *disk = disks; disk < disks + disk_count; disk++) {
        say("disk %s window=%llu stride=%llu fill=%llu allowance=%llu rate=%llu\n", disk->name,
            (unsigned long long)disk->slots, (unsigned long long)disk->stride, (unsigned long long)disk->fill,
            (unsigned long long)disk->allowance, (unsigned long long)disk->rate);
        sprintf(names + strlen(names), "%s%.7s", disk == disks ? "" : ",", disk->name);
    }
    say("ready %016llx disks=%s\n", (unsigned long long)run_id, names);
}

static void acknowledge(struct disk *disk)
{
    uint64_t completed = disk->completed;
    if (completed == disk->acknowledged)
        return;
    say("ack %s %llu %lld\n", disk->name, (unsigned long long)completed, (long long)(now_ns() / 1000000));
    tcdrain(STDOUT_FILENO); /* it counts once it is out of the guest */
    disk->acknowledged = completed;
}

int main(void)
{
    make_crc_tables();
    if (getrandom(&run_id, sizeof run_id, GRND_INSECURE) != sizeof run_id)
        give_up("random");
    find_disks();
    allocate_memory();
    for (int i = 0; i < disk_count; i++)
        fill(&disks[i]);
    announce();
    for (int i = 0; i < disk_count; i++)
        if (disks[i].rate)
            start(write_ring, &disks[i]);
    if (page_count)
        start(dirty_memory, NULL);
    int64_t next = now_ns();
    for (uint64_t tick = 1;; tick++) {
        say("tick %llu %lld\n", (unsigned long long)tick, (long long)(now_ns() / 1000000));
        for (int i = 0; i < disk_count; i++)
            acknowledge(&disks[i]);
        wait_for_beat(&next, TICK_NS);
    }
}
