/* SPDX-License-Identifier: LGPL-2.1-only */
# A guest that does what a test in dom0 says, one instruction at a time.  It runs as firmware of an HVM guest and as the kernel
# of a PVH guest: both start in 32-bit protected mode, flat segments, no paging, interrupts off.
#
# Each vCPU has 32 ports at 2000h + 20h * vCPU, which an ioreq server of the test answers: it reads what to do from +0 (an in
# that is not answered waits, and costs nothing), then an address, a value and a count from +4, +8 and +c, and writes the
# result to +10h and its upper half to +14h.

	.intel_syntax noprefix
	.equ	PORTS, 0x2000
	.equ	TRAMPOLINE, 0x8000	# where a further vCPU starts, in real mode: a page below 1 MiB
	.equ	LAPIC, 0xfee00000

	.section .note.Xen, "a", @note
	.long	4, 4, 18		# XEN_ELFNOTE_PHYS32_ENTRY; source: xen/include/public/elfnote.h
	.asciz	"Xen"
	.long	_start

	.text
	.globl	_start
_start:
	cld
	mov	esp, offset stack_top
	lgdt	[gdt_pointer]
	mov	ebp, PORTS
	jmp	next

# ebp: the vCPU's ports.
next:
	lea	edx, [ebp]
	in	eax, dx
	mov	ebx, eax
	lea	edx, [ebp + 4]
	in	eax, dx
	mov	edi, eax		# address, or port
	lea	edx, [ebp + 8]
	in	eax, dx
	mov	esi, eax		# value, or address in memory
	lea	edx, [ebp + 0xc]
	in	eax, dx
	mov	ecx, eax		# count
	xor	eax, eax
	push	offset done
	cmp	ebx, (table_end - table) / 4
	jae	nothing
	jmp	[table + ebx * 4]
done:
	cld
	mov	ebx, edx
	lea	edx, [ebp + 0x10]
	out	dx, eax
	mov	eax, ebx
	lea	edx, [ebp + 0x14]
	out	dx, eax
	jmp	next

table:
	.long	nothing, read8, read16, read32, read64, write8, write16, write32, write64
	.long	in8, in16, in32, out8, out16, out32
	.long	movs_from, movs_to, movs_back, ins8, ins32, outs8, outs32, stos32, xadd32, start_cpu, hypercall_page, hypercall
	.long	reads32, writes32, ins_each32, moves32, hammer, garbage
table_end:

nothing:
	ret
read8:	mov	al, [edi]
	ret
read16:	mov	ax, [edi]
	ret
read32:	mov	eax, [edi]
	ret
read64:	movq	mm0, [edi]		# one access of 8 bytes
	movq	[scratch], mm0
	emms
	mov	eax, [scratch]
	mov	edx, [scratch + 4]
	ret
write8:	mov	eax, esi
	mov	[edi], al
	ret
write16: mov	eax, esi
	mov	[edi], ax
	ret
write32: mov	[edi], esi
	ret
write64: mov	[scratch], esi
	mov	[scratch + 4], ecx
	movq	mm0, [scratch]
	movq	[edi], mm0
	emms
	ret
in8:	mov	edx, edi
	in	al, dx
	ret
in16:	mov	edx, edi
	in	ax, dx
	ret
in32:	mov	edx, edi
	in	eax, dx
	ret
out8:	mov	edx, edi
	mov	eax, esi
	out	dx, al
	ret
out16:	mov	edx, edi
	mov	eax, esi
	out	dx, ax
	ret
out32:	mov	edx, edi
	mov	eax, esi
	out	dx, eax
	ret
movs_from:				# from the device at edi to memory at esi
	xchg	esi, edi
movs_to:				# from memory at esi to the device at edi
	rep movsd
	ret
movs_back:				# from the device at edi to memory at esi, downwards
	xchg	esi, edi
	std
	rep movsd
	ret
ins8:	mov	edx, edi
	mov	edi, esi
	rep insb
	ret
ins32:	mov	edx, edi
	mov	edi, esi
	rep insd
	ret
outs8:	mov	edx, edi
	rep outsb
	ret
outs32:	mov	edx, edi
	rep outsd
	ret
stos32:	mov	eax, esi
	rep stosd
	ret
xadd32:	mov	eax, esi
	lock xadd [edi], eax
	ret
# One access after another, to be timed.
reads32:
	mov	eax, [edi]
	loop	reads32
	ret
writes32:
	mov	[edi], esi
	loop	writes32
	ret
ins_each32:
	mov	edx, edi
1:	in	eax, dx
	loop	1b
	ret
# A BAR moved back and forth: ecx pairs of config writes.  cf8 holds the register; edi and esi are the addresses.
moves32:
	mov	edx, 0xcfc
1:	mov	eax, edi
	out	dx, eax
	mov	eax, esi
	out	dx, eax
	loop	1b
	ret
# Reads and writes a BAR at edi, and reads config space (ecx: what goes to cf8), until it is stopped.  The record at esi, in the
# guest's memory: 0 what stops it, 4 how many rounds, 8 the longest round, 10h when the last one began (both 64 bits of the
# time stamp counter), 18h what was read last from the BAR, 1ch and from config space, 20h and 24h in the longest round.
hammer:
	push	ebx
	push	ebp
1:	rdtsc
	mov	[esi + 0x10], eax
	mov	[esi + 0x14], edx
	mov	ebx, [edi]
	mov	[edi + 4], ebx
	mov	eax, ecx
	mov	edx, 0xcf8
	out	dx, eax
	mov	edx, 0xcfc
	in	eax, dx
	mov	ebp, eax
	rdtsc
	mov	[esi + 0x18], ebx
	mov	[esi + 0x1c], ebp
	sub	eax, [esi + 0x10]
	sbb	edx, [esi + 0x14]
	cmp	edx, [esi + 0xc]
	jb	3f
	ja	2f
	cmp	eax, [esi + 8]
	jbe	3f
2:	mov	[esi + 8], eax
	mov	[esi + 0xc], edx
	mov	[esi + 0x20], ebx
	mov	[esi + 0x24], ebp
3:	inc	dword ptr [esi + 4]
	cmp	dword ptr [esi], 0
	je	1b
	pop	ebp
	pop	ebx
	ret
# Noise into every register of a function's config space, 1, 2 and 4 bytes at a time.  edi: what goes to cf8 for register 0,
# esi: where the noise begins.
garbage:
	push	ebx
	xor	ebx, ebx		# register
1:	mov	ecx, 1			# bytes
2:	mov	eax, ebx
	and	eax, 0xfc
	or	eax, edi
	mov	edx, 0xcf8
	out	dx, eax
	imul	esi, esi, 1664525
	add	esi, 1013904223
	mov	eax, esi
	bswap	eax			# the upper bits are the better noise
	mov	edx, ebx
	and	edx, 3
	add	edx, 0xcfc
	cmp	ecx, 2
	je	3f
	ja	4f
	out	dx, al
	jmp	5f
3:	out	dx, ax
	jmp	5f
4:	out	dx, eax
5:	shl	ecx, 1
	cmp	ecx, 4
	jbe	2b
	inc	ebx
	cmp	ebx, 0x100
	jb	1b
	mov	eax, esi
	pop	ebx
	ret
# vCPU number esi: INIT, SIPI, SIPI at its APIC id, which is twice its number (xen/arch/x86/hvm/vlapic.c, SET_xAPIC_ID).
start_cpu:
	mov	eax, esi
	shl	eax, 5
	add	eax, PORTS
	mov	[next_ports], eax
	mov	eax, esi
	shl	eax, 12
	add	eax, offset stack_top
	mov	[next_stack], eax
	mov	ecx, offset trampoline_end - trampoline
	mov	edi, TRAMPOLINE
	push	esi
	mov	esi, offset trampoline
	rep movsb
	pop	esi
	shl	esi, 25
	mov	[LAPIC + 0x310], esi
	mov	dword ptr [LAPIC + 0x300], 0x4500
	mov	[LAPIC + 0x310], esi
	mov	dword ptr [LAPIC + 0x300], 0x4600 + (TRAMPOLINE >> 12)
	mov	[LAPIC + 0x310], esi
	mov	dword ptr [LAPIC + 0x300], 0x4600 + (TRAMPOLINE >> 12)
	ret
# The hypercall page goes where the MSR that Xen's CPUID leaf 40000002h names says.
hypercall_page:
	push	ebx
	mov	eax, 0x40000002
	cpuid
	mov	ecx, ebx
	mov	eax, offset page
	xor	edx, edx
	wrmsr
	pop	ebx
	ret
# Hypercall number ecx with esi and edi as its first two arguments.
hypercall:
	push	ebx
	mov	eax, ecx
	shl	eax, 5
	add	eax, offset page
	mov	ebx, esi
	mov	ecx, edi
	call	eax
	pop	ebx
	ret

	.code16
trampoline:
	cli
	mov	ax, cs
	mov	ds, ax
	data32 lgdt ds:[gdt_copy - trampoline]
	mov	eax, cr0
	or	al, 1
	mov	cr0, eax
	jmp	fword ptr ds:[far_pointer - trampoline]
far_pointer:
	.long	protected
	.word	8
gdt_copy:
	.word	gdt_end - gdt - 1
	.long	gdt
trampoline_end:
	.code32
protected:
	mov	ax, 16
	mov	ds, ax
	mov	es, ax
	mov	ss, ax
	mov	esp, [next_stack]
	mov	ebp, [next_ports]
	cld
	jmp	next

	.align	8
gdt:	.quad	0, 0x00cf9a000000ffff, 0x00cf92000000ffff
gdt_end:
gdt_pointer:
	.word	gdt_end - gdt - 1
	.long	gdt

	.align	8
scratch: .quad	0
next_ports: .long 0
next_stack: .long 0

	.bss
	.align	4096
page:	.skip	4096
	.skip	4096
stack_top:
	.skip	4 * 4096
