/* SPDX-License-Identifier: LGPL-2.1-only
 * A guest that only looks for an Intel display: booted in place of hvmloader (firmware_override), it asks for the OpRegion
 * as hvmloader does, reads and writes it, and says on Xen's debug port 0xe9 what it saw.
 *
 * Xen starts it as it starts hvmloader: 32-bit protected mode, flat segments, no paging, interrupts off.  With GARBAGE it
 * first writes nonsense into the registers of the display that matter.
 */
typedef unsigned char u8;
typedef unsigned int u32;

#define DEBUG_PORT 0xe9 /* xen/arch/x86/hvm/hvm.c, hvm_print_line */
#define CONFIG_ADDRESS 0xcf8
#define CONFIG_DATA 0xcfc
#define GGC 0x50
#define BDSM 0x5c
#define ASLS 0xfc
#define OPREGION 0xe0000000u /* where the guest wants it: beyond its RAM, as hvmloader's hole */
#define MARK_AT 0x200
#define MARK 0x12345678u
#define VBIOS 0xc0000
#define VBIOS_TEXT (VBIOS + 0x100)

__asm__(".globl _start\n_start: cld\n mov $stack_top, %esp\n call look\n"
	"mov $0xff, %al\n outb %al, $0x21\n outb %al, $0xa1\n" /* asleep, not shut down: interrupts on, none comes */
	"sti\n1: hlt\n jmp 1b\n.bss\n.align 16\n.skip 4096\nstack_top:\n.text\n");

static void outb(unsigned short port, u8 value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }
static u8 inb(unsigned short port)
{
	u8 value;
	__asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}
static void outl(unsigned short port, u32 value) { __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port)); }
static u32 inl(unsigned short port)
{
	u32 value;
	__asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static void say(const char *text)
{
	while (*text)
		outb(DEBUG_PORT, *text++);
}

static void begin(const char *name)
{
	say("igdguest: ");
	say(name);
	say("=");
}

static void number(const char *name, u32 value)
{
	begin(name);
	for (int shift = 28; shift >= 0; shift -= 4)
		outb(DEBUG_PORT, "0123456789abcdef"[value >> shift & 15]);
	say("\n");
}

static void text(const char *name, u32 address, int length)
{
	const volatile u8 *at = (const volatile u8 *)address;

	begin(name);
	for (int i = 0; i < length; i++) {
		u8 c = at[i];
		outb(DEBUG_PORT, c < ' ' || c > '~' ? '.' : c);
	}
	say("\n");
}

static u32 config(u32 slot, u32 reg)
{
	outl(CONFIG_ADDRESS, 0x80000000u | slot << 11 | reg);
	return inl(CONFIG_DATA);
}

static void set_config(u32 slot, u32 reg, u32 value)
{
	outl(CONFIG_ADDRESS, 0x80000000u | slot << 11 | reg);
	outl(CONFIG_DATA, value);
}

/* The slot of the first Intel display of bus 0, or 32. */
static u32 find(void)
{
	u32 slot;

	for (slot = 0; slot < 32; slot++)
		if ((config(slot, 0) & 0xffff) == 0x8086 && config(slot, 8) >> 24 == 3)
			break;
	return slot;
}

static void look(void) __asm__("look") __attribute__((used));
static void look(void)
{
	u32 slot = find();

	if (slot < 32) {
		number("id", config(slot, 0));
		number("class", config(slot, 8) >> 8);
#ifdef GARBAGE
		for (u32 bits = 0xffffffff; bits; bits >>= 7) {
			set_config(slot, GGC, bits);
			set_config(slot, BDSM, bits);
		}
		set_config(slot, ASLS, 0xdeadbeef);
#endif
		set_config(slot, ASLS, OPREGION);
		u32 asls = config(slot, ASLS);
		number("asls", asls);
		text("signature", asls, 16);
		*(volatile u32 *)(asls + MARK_AT) = MARK;
		number("mark", *(volatile u32 *)(asls + MARK_AT));
	} else {
		say("igdguest: id=none\n");
	}
	number("c0000", *(volatile u32 *)VBIOS);
	text("vbios", VBIOS_TEXT, 12);
	outb(0x3c2, 0x67);
	number("misc", inb(0x3cc));
	say("igdguest: end\n");
}
