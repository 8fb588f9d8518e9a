/* SPDX-License-Identifier: LGPL-2.1-only */
/*
 * The preload library under ASan and UBSan, with a xenstore and a caller that are hostile.
 *
 *     fuzz SECONDS FINDING [INPUT...]
 *
 * Guided by coverage: gcc calls __sanitizer_cov_trace_pc at each branch, and an input that gets somewhere new is mutated further.
 * The input that a sanitizer or a check stops at is written to FINDING; with INPUTs, these alone are run.
 *
 * An input is a list of calls, each a byte and what it takes: publish a text, populate, permit, or load with an LD_PRELOAD.  After
 * each call the answer is held to the rule, read with strtoull and without the library's own limits: "done before" is only what
 * was published, in a text that is wholly as it should be, and what nobody has asked for yet.
 */
#include <assert.h>
#include <ctype.h>
#include <signal.h>
#include <time.h>

#define dlsym fake_dlsym
#include "../../../hooks/preload/preload.c"
#undef dlsym

void __sanitizer_set_death_callback(void (*callback)(void));
void __sanitizer_cov_trace_pc(void);
#define UNSEEN __attribute__((no_sanitize_coverage, no_sanitize("address", "undefined")))

/* A check of ours that fails is a finding as well. */
const char *__asan_default_options(void);
UNSEEN const char *__asan_default_options(void)
{
	return "handle_abort=1";
}

#define LONGEST 8192 /* twice what a node can hold */
#define MOST_SPANS 4096

/* what the library finds ----------------------------------------------------------------------------------------------- */

struct text {
	char *bytes; /* exactly as long as it is, so that a byte too many is seen */
	size_t length;
};
static struct text populated, iomem;
static int handles, real_calls, broken;

static struct xs_handle *fake_open(unsigned long flags)
{
	assert(flags == 0);
	if (broken & 1)
		return NULL;
	handles++;
	return (struct xs_handle *)&handles;
}

static void fake_close(struct xs_handle *handle)
{
	assert(handle == (struct xs_handle *)&handles);
	handles--;
}

static void *fake_read(struct xs_handle *handle, uint32_t transaction, const char *path, unsigned int *length)
{
	const struct text *text = strstr(path, "/populated") ? &populated : &iomem;
	char *copy;

	assert(handle && transaction == 0 && !strncmp(path, "xlplug/", 7));
	if (broken & 2 || !text->bytes)
		return NULL;
	copy = malloc(text->length ? text->length : 1);
	memcpy(copy, text->bytes, text->length);
	*length = (unsigned int)text->length;
	errno = 77;
	return copy;
}

static int real_populate(struct xc_interface_core *xch, uint32_t domid, unsigned long nr, unsigned int order, unsigned int flags,
			 unsigned long *extents)
{
	(void)xch, (void)domid, (void)nr, (void)order, (void)flags, (void)extents;
	real_calls++;
	return -1;
}

static int real_iomem(struct xc_interface_core *xch, uint32_t domid, unsigned long first, unsigned long nr, uint8_t allow)
{
	(void)xch, (void)domid, (void)first, (void)nr, (void)allow;
	real_calls++;
	return -1;
}

void *fake_dlsym(void *handle, const char *name)
{
	(void)handle;
	if (!strcmp(name, "xs_open"))
		return broken & 4 ? NULL : (void *)fake_open;
	if (!strcmp(name, "xs_read"))
		return (void *)fake_read;
	if (!strcmp(name, "xs_close"))
		return (void *)fake_close;
	if (!strcmp(name, "xc_domain_populate_physmap_exact"))
		return (void *)real_populate;
	return (void *)real_iomem;
}

/* the rule ------------------------------------------------------------------------------------------------------------- */

struct span {
	uint32_t domid;
	unsigned long first, last;
};
static struct span spans[MOST_SPANS]; /* what has been asked for */
static size_t nr_spans;

/* Whether the text is a list of ranges to its last character, and one after the other cover first to last. */
static bool published(const struct text *text, unsigned long first, unsigned long last)
{
	char copy[LONGEST + 1];
	struct range found[LONGEST / 4 + 1];
	size_t nr = 0;
	bool progress = true;

	if (!text->bytes || !text->length || memchr(text->bytes, 0, text->length))
		return false;
	memcpy(copy, text->bytes, text->length);
	copy[text->length] = '\0';
	for (char *at = copy;; at++) {
		char *end;

		if (!isxdigit((unsigned char)*at) || isupper((unsigned char)*at) || (at[0] == '0' && at[1] == 'x'))
			return false;
		found[nr].first = strtoull(at, &end, 16);
		if (*end != '-' || !isxdigit((unsigned char)end[1]) || (end[1] == '0' && end[2] == 'x'))
			return false;
		found[nr].last = strtoull(end + 1, &at, 16);
		if (found[nr].last < found[nr].first)
			return false;
		nr++;
		if (!*at)
			break;
		if (*at != ',')
			return false;
	}
	for (const char *c = copy; *c; c++)
		if (!strchr("0123456789abcdef-,", *c))
			return false;
	while (progress) {
		progress = false;
		for (size_t i = 0; i < nr; i++)
			if (found[i].first <= first && first <= found[i].last) {
				if (found[i].last >= last)
					return true;
				first = found[i].last + 1;
				progress = true;
			}
	}
	return false;
}

static bool asked_before(uint32_t domid, unsigned long first, unsigned long last)
{
	for (size_t i = 0; i < nr_spans; i++)
		if (spans[i].domid == domid && spans[i].first <= last && first <= spans[i].last)
			return true;
	return false;
}

static void note(uint32_t domid, unsigned long first, unsigned long last)
{
	if (nr_spans < MOST_SPANS)
		spans[nr_spans++] = (struct span){domid, first, last};
}

/* the calls ------------------------------------------------------------------------------------------------------------ */

struct input {
	const unsigned char *at, *end;
};

static unsigned long take(struct input *input, int bytes)
{
	unsigned long value = 0;

	while (bytes-- && input->at < input->end)
		value = value << 8 | *input->at++;
	return value;
}

/* A frame: near the beginning, near the end, or anywhere. */
static unsigned long frame(struct input *input)
{
	unsigned long how = take(input, 1);

	if (how < 160)
		return how;
	if (how < 200)
		return take(input, 2);
	if (how < 230)
		return -take(input, 1);
	return take(input, 8);
}

/* What is published: the bytes as they are, or as characters that a text of ranges has. */
static void publish(struct input *input, struct text *text)
{
	static const char alphabet[] = "0123456789abcdef--,,f0fffff-0-f1";
	unsigned long how = take(input, 2);
	size_t length = how & 0x1fff;

	free(text->bytes);
	text->bytes = NULL;
	if (how & 0x8000)
		return;
	if (length > (size_t)(input->end - input->at))
		length = (size_t)(input->end - input->at);
	text->bytes = malloc(length ? length : 1);
	text->length = length;
	for (size_t i = 0; i < length; i++) {
		unsigned char byte = *input->at++;

		text->bytes[i] = (char)(how & 0x4000 ? byte : (unsigned char)alphabet[byte & 31]);
	}
}

static void populate(struct input *input)
{
	uint32_t domid = take(input, 1) & 1 ? 7 : 8;
	unsigned int order = (unsigned int)take(input, 1), flags = take(input, 1) < 230 ? 0 : 1;
	unsigned long nr = take(input, 1) & 0x1f;
	unsigned long *extents = nr ? malloc(nr * sizeof(*extents)) : NULL;
	unsigned long size;
	int result, before = real_calls;

	order = order < 200 ? order % 20 : order < 220 ? order - 200 + 55 : 0xffffffff;
	for (unsigned long i = 0; i < nr; i++)
		extents[i] = i && order < 20 && take(input, 1) & 1 ? extents[i - 1] + (1UL << order) : frame(input);
	errno = 123;
	result = xc_domain_populate_physmap_exact(NULL, domid, nr, order, flags, extents);
	assert(errno == 123 && handles == 0);
	assert((result == 0) == (real_calls == before));
	size = order < 19 ? 1UL << order : 1;
	if (result == 0) {
		assert(nr && !flags && order <= 18);
		for (unsigned long i = 0; i < nr; i++) {
			unsigned long last = extents[i] + size - 1;

			assert(last >= extents[i] && published(&populated, extents[i], last));
			assert(!asked_before(domid, extents[i], last));
			note(domid, extents[i], last);
		}
	} else if (order <= 18) {
		for (unsigned long i = 0; i < nr; i++)
			if (extents[i] + size - 1 >= extents[i])
				note(domid, extents[i], extents[i] + size - 1);
	}
	free(extents);
}

static void permit(struct input *input)
{
	unsigned long first = frame(input), nr = frame(input);
	uint8_t allow = take(input, 1) < 200;
	int result, before = real_calls;

	errno = 123;
	result = xc_domain_iomem_permission(NULL, 7, first, nr, allow);
	assert(errno == 123 && handles == 0);
	assert((result == 0) == (real_calls == before));
	assert(result != 0 || (allow && nr && first + nr - 1 >= first && published(&iomem, first, first + nr - 1)));
}

/* LD_PRELOAD from a few words, of which one is ours, and separators. */
static void load(struct input *input)
{
	static const char *const words[] = {"/usr/lib/" FILE_NAME, FILE_NAME, "x" FILE_NAME, "libc.so.6", ":", " ", "::", "/", "a"};
	char value[512] = "";
	const char *after;

	for (unsigned long nr = take(input, 1) & 0xf; nr; nr--)
		strcat(value, words[take(input, 1) % (sizeof(words) / sizeof(*words))]);
	setenv("LD_PRELOAD", value, 1);
	go_no_further();
	after = getenv("LD_PRELOAD");
	assert(!after || strlen(after) <= strlen(value));
	for (const char *word = after; word && *word; word += strcspn(word, ":")) {
		word += strspn(word, ":");
		assert(!is_ours(word, strcspn(word, ":")));
	}
	unsetenv("LD_PRELOAD");
}

UNSEEN static void run(const unsigned char *bytes, size_t length)
{
	struct input input = {bytes, bytes + length};

	nr_asked = nr_spans = 0;
	broken = 0;
	while (input.at < input.end)
		switch (take(&input, 1) % 8) {
		case 0:
		case 1:
			publish(&input, &populated);
			break;
		case 2:
			publish(&input, &iomem);
			break;
		case 3:
			permit(&input);
			break;
		case 4:
			broken = (int)take(&input, 1) > 240 ? (int)take(&input, 1) & 7 : 0;
			break;
		case 5:
			load(&input);
			break;
		default:
			populate(&input);
		}
}

/* the fuzzer ----------------------------------------------------------------------------------------------------------- */

#define PLACES (1 << 14)
#define MOST_KEPT 4096

static unsigned char seen[PLACES], now[PLACES]; /* how often, in steps of a power of two */
static uintptr_t previous;
static struct {
	unsigned char bytes[LONGEST];
	size_t length;
} kept[MOST_KEPT], current;
static size_t nr_kept;
static const char *finding;

UNSEEN void __sanitizer_cov_trace_pc(void)
{
	uintptr_t here = (uintptr_t)__builtin_return_address(0);
	size_t edge = (here ^ previous << 1) * 0x9E3779B1u >> 8 & (PLACES - 1);

	if (now[edge] < 255)
		now[edge]++;
	previous = here;
}

UNSEEN static bool is_new(void)
{
	bool found = false;

	for (size_t i = 0; i < PLACES; i++) {
		unsigned char bucket = (unsigned char)(now[i] ? 1u << (31 - __builtin_clz(now[i])) : 0);

		if (bucket & ~seen[i]) {
			seen[i] |= bucket;
			found = true;
		}
	}
	return found;
}

UNSEEN static uint32_t dice(void)
{
	static uint64_t state = 88172645463325252ULL;

	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (uint32_t)(state >> 16);
}

UNSEEN static void mutate(void)
{
	current.length = 0;
	if (nr_kept) {
		size_t which = dice() % nr_kept;

		memcpy(current.bytes, kept[which].bytes, current.length = kept[which].length);
	}
	for (uint32_t times = 1 + dice() % 6; times; times--) {
		size_t at = current.length ? dice() % current.length : 0, room = LONGEST - current.length, length = 1 + dice() % 24;

		switch (dice() % 6) {
		case 0: /* insert */
			if (length > room)
				break;
			memmove(current.bytes + at + length, current.bytes + at, current.length - at);
			for (size_t i = 0; i < length; i++)
				current.bytes[at + i] = (unsigned char)dice();
			current.length += length;
			break;
		case 1: /* remove */
			if (length > current.length - at)
				length = current.length - at;
			memmove(current.bytes + at, current.bytes + at + length, current.length - at - length);
			current.length -= length;
			break;
		case 2: /* say a part again and again */
			if (length > current.length - at)
				length = current.length - at;
			for (uint32_t again = dice() % 64; again && length && length <= LONGEST - current.length; again--) {
				memmove(current.bytes + at + length, current.bytes + at, current.length - at);
				current.length += length;
			}
			break;
		case 3: /* the end of another one */
			if (nr_kept) {
				size_t which = dice() % nr_kept, from = kept[which].length ? dice() % kept[which].length : 0;

				length = kept[which].length - from;
				if (length > LONGEST - at)
					length = LONGEST - at;
				memcpy(current.bytes + at, kept[which].bytes + from, length);
				current.length = at + length;
			}
			break;
		default:
			if (current.length)
				current.bytes[at] ^= (unsigned char)(dice() & 1 ? 1u << (dice() & 7) : dice());
		}
	}
}

/* A beginning: publish a text twice, and ask for pages and for access. */
UNSEEN static void begin_with(const char *text, size_t times)
{
	static const unsigned char calls[] = {6, 1, 0, 0, 3, 5, 6, 1, 7, 3, 5, 1, 0, 6, 1, 9, 0, 2, 240, 0, 0, 0, 0, 0, 0, 2, 0, 1};
	unsigned char *at = kept[nr_kept].bytes;

	for (int kind = 0; kind < 4; kind += 2) {
		size_t length = strlen(text) * times - 1;

		*at++ = (unsigned char)kind;
		*at++ = (unsigned char)(0x40 | length >> 8);
		*at++ = (unsigned char)length;
		for (size_t i = 0; i < length; i++)
			*at++ = (unsigned char)text[i % strlen(text)];
		if (length > LONGEST / 3)
			break;
	}
	if ((size_t)(at - kept[nr_kept].bytes) + sizeof(calls) <= LONGEST) {
		memcpy(at, calls, sizeof(calls));
		at += sizeof(calls);
	}
	kept[nr_kept].length = (size_t)(at - kept[nr_kept].bytes);
	nr_kept++;
}

UNSEEN static void begin(void)
{
	unsigned char *at = kept[6].bytes;

	begin_with("a0-bf,7a18d-7a18f,", 1);
	begin_with("0-ffffffffffffffff,", 1);
	begin_with("1-5,10000000000000005-1000000000000000f,", 1);
	begin_with("0-0,", 1100);
	begin_with("5-5,0-2,3-4,", 9);
	begin_with("1-5,9-3,", 1);
	/* More runs than are noted. */
	for (int call = 0; call < 12; call++) {
		static const unsigned char head[] = {6, 1, 0, 0, 31};

		memcpy(at, head, sizeof(head));
		at += sizeof(head);
		for (int i = 0; i < 31; i++) {
			if (i)
				*at++ = 0;
			*at++ = 161; /* two bytes follow */
			*at++ = (unsigned char)(call + 1);
			*at++ = (unsigned char)(2 * i);
		}
	}
	kept[nr_kept].length = (size_t)(at - kept[nr_kept].bytes);
	nr_kept++;
}

UNSEEN static void died(void)
{
	FILE *file = fopen(finding, "wb");

	if (file) {
		fwrite(current.bytes, 1, current.length, file);
		fclose(file);
	}
}

/* Nothing takes long: what does so hangs. */
UNSEEN static void hung(int number)
{
	(void)number;
	died();
	dprintf(STDERR_FILENO, "it hangs\n");
	_exit(1);
}

UNSEEN int main(int argc, char **argv)
{
	time_t end = time(NULL) + atoi(argv[1]);
	unsigned long runs = 0, places = 0;

	finding = argv[2];
	__sanitizer_set_death_callback(died);
	signal(SIGALRM, hung);
	begin();
	for (int i = 3; i < argc; i++) {
		FILE *file = fopen(argv[i], "rb");

		current.length = file ? fread(current.bytes, 1, LONGEST, file) : 0;
		if (file)
			fclose(file);
		run(current.bytes, current.length);
	}
	if (argc > 3)
		return 0;
	while (runs % 256 || time(NULL) < end) {
		if (runs < 7)
			current = (typeof(current)){0}, memcpy(&current, &kept[runs], sizeof(current));
		else
			mutate();
		if (runs % 256 == 0)
			alarm(30);
		memset(now, 0, sizeof(now));
		previous = 0;
		run(current.bytes, current.length);
		runs++;
		if (is_new() && nr_kept < MOST_KEPT) {
			memcpy(kept[nr_kept].bytes, current.bytes, current.length);
			kept[nr_kept++].length = current.length;
		}
	}
	for (size_t i = 0; i < PLACES; i++)
		places += seen[i] != 0;
	printf("%lu runs, %lu places, %zu kept\n", runs, places, nr_kept);
	return 0;
}
